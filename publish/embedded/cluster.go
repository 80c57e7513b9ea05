package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish/access"
)

// isClustered reports whether the server would be one of a cluster.
func isClustered(o *server.Options) bool { return o.Cluster.Port != 0 || o.Gateway.Port != 0 }

// nameFile, in the data directory, has the name with which the server has joined its cluster.
const nameFile = "server_name"

// nameServer sets the name of the server. A cluster identifies its servers by their
// names. The default is therefore the name that the server has had in the cluster, since
// a container can have another host name at each start, and at the first start the host name.
func (c Config) nameServer(o *server.Options) error {
	if !isClustered(o) {
		if o.ServerName == "" {
			o.ServerName = "versive-ingress"
		}
		return nil
	}
	text, err := os.ReadFile(filepath.Join(c.Dir, nameFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	joined := strings.TrimSpace(string(text))
	switch {
	case o.ServerName == "" && joined != "":
		o.ServerName = joined
	case o.ServerName == "":
		if o.ServerName, err = os.Hostname(); err != nil || o.ServerName == "localhost" {
			return fmt.Errorf("the servers of a cluster need different names, and the host name is %q; set server_name: … in configuration file %s", o.ServerName, c.ConfigFile)
		}
	case joined != "" && joined != o.ServerName && clusterLog(c.storeDir()) != "":
		return fmt.Errorf("configuration file %s sets server_name: %s, but the data directory %s belongs to the server %s of the cluster, which would then remove its streams; "+
			"set server_name: %[4]s, or start a new server of the cluster with an empty data directory", c.ConfigFile, o.ServerName, c.Dir, joined)
	}
	return nil
}

// recordName remembers the name of the server for nameServer.
func (c Config) recordName(o *server.Options) error {
	file := filepath.Join(c.Dir, nameFile)
	if text, err := os.ReadFile(file); !isClustered(o) || err == nil && string(text) == o.ServerName+"\n" {
		return nil
	}
	return access.Replace(file, []byte(o.ServerName+"\n"))
}

// clusterLog returns the system account under which a store has the list of the streams of a
// cluster, or "" if it has none.
func clusterLog(store string) (account string) {
	logs, _ := fs.Glob(os.DirFS(store), "*/_js_/_meta_") // it fails only for a malformed pattern
	for _, log := range logs {
		account, _, _ = strings.Cut(log, "/")
	}
	return account
}

// Diagnose returns what is missing for the server to answer as one of a cluster: a
// leader, and which of the servers are connected. It returns nil if nothing is.
func (b *Broker) Diagnose() error {
	s := b.current()
	info, err := s.Jsz(nil)
	if err != nil || info.Meta == nil || info.Meta.Leader != "" {
		return nil
	}
	var connected []string
	if routes, err := s.Routez(nil); err == nil {
		for _, r := range routes.Routes {
			connected = append(connected, r.RemoteName)
		}
	}
	slices.Sort(connected)
	size := info.Meta.Size
	return fmt.Errorf("the cluster has no leader: %d of its %d servers must run and be connected, or all of them at the first start and after the loss of a store; this one is %s, and it is connected to %s",
		size/2+1, size, s.Name(), cmp.Or(strings.Join(slices.Compact(connected), ", "), "none"))
}

// Listener returns the address of the listener for clients in a configuration file, as
// host:port, or "" if the file has none or cannot be used.
func Listener(configFile string) string {
	if configFile == "" {
		return ""
	}
	o, err := server.ProcessConfigFile(configFile)
	if err != nil || o.Port < 0 || o.Host == "" && o.Port == 0 {
		return ""
	}
	return net.JoinHostPort(o.Host, strconv.Itoa(cmp.Or(o.Port, server.DEFAULT_PORT)))
}

// ConfigDigest returns a digest of a configuration file with the files that it
// includes and the variables that it uses.
func ConfigDigest(configFile string) (string, error) {
	_, digest, err := conf.ParseFileWithChecksDigest(configFile)
	return digest, err
}
