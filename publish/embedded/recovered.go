package embedded

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// An asset is a stream or a consumer.
type asset struct {
	streamDir
	consumer string // empty for the stream itself
}

// assets returns all streams and consumers in the store.
func assets(store string) ([]asset, error) {
	streams, err := streamDirs(store)
	if err != nil {
		return nil, err
	}
	var all []asset
	for _, d := range streams {
		consumers, err := d.consumers()
		if err != nil {
			return nil, err
		}
		all = append(all, asset{streamDir: d})
		for _, name := range consumers {
			all = append(all, asset{d, name})
		}
	}
	return all, nil
}

// checkRecovered returns an error if s, which has just started, has not recovered a
// stream or durable consumer that was in the store before. The warnings are those
// that s has logged.
func checkRecovered(s *server.Server, store string, before []asset, warnings []string) error {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Consumer: true, DirectConsumer: true, Limit: math.MaxInt})
	if err != nil {
		return err
	}
	type key struct{ account, stream, consumer string }
	known := make(map[key]bool)
	var accounts []string // with JetStream
	for _, account := range info.AccountDetails {
		accounts = append(accounts, account.Id)
		for _, stream := range account.Streams {
			known[key{account.Id, stream.Name, ""}] = true
			for _, c := range slices.Concat(stream.Consumer, stream.DirectConsumer) {
				known[key{account.Id, stream.Name, c.Name}] = true
			}
		}
	}
	for _, a := range before {
		switch {
		case known[key{a.account, a.stream, a.consumer}]:
		case !slices.Contains(accounts, a.account):
			return a.unreachable(store, accounts)
		case a.consumer == "" && remains(a.path):
			return fmt.Errorf("the server has not recovered the stream %s of account %s in %s: %s; fix the cause, or restore the stream from a backup",
				a.stream, a.account, a.path, reason(warnings, a.stream))
		case a.consumer != "" && !isEphemeral(a.consumerDir(a.consumer)) && remains(a.consumerDir(a.consumer)):
			return fmt.Errorf("the server has not recovered the consumer %s of stream %s in %s: %s; fix the cause, or restore the consumer from a backup",
				a.consumer, a.stream, a.consumerDir(a.consumer), reason(warnings, a.consumer))
		}
	}
	return nil
}

// remains reports whether a directory still exists after a second, in which the
// server can finish deleting it.
func remains(dir string) bool {
	for range 20 {
		if !exists(dir) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// unreachable returns the error for a stream of an account without JetStream.
func (d streamDir) unreachable(store string, accounts []string) error {
	move := "back it up with the old configuration and restore it with this one (nats stream backup, nats stream restore)"
	if len(accounts) == 1 && !exists(filepath.Join(store, accounts[0])) && !exists(filepath.Join(d.path, server.JetStreamMetaFileKey)) {
		move = fmt.Sprintf("move the account's streams and consumers to %s: mv %s %s",
			accounts[0], quote(filepath.Join(store, d.account)), quote(filepath.Join(store, accounts[0])))
	}
	return fmt.Errorf("%s is a stream of the account %s, which has no JetStream in the configuration, or cannot be resolved: "+
		"its messages would not be accessible, and resent events would be stored twice; start with the old configuration, "+
		"move the directory out of the store if it is no longer needed, or %s", d.path, d.account, move)
}

// reason returns the server's warnings that mention a name, or all if none does.
func reason(warnings []string, name string) string {
	about := slices.Clone(warnings)
	about = slices.DeleteFunc(about, func(w string) bool { return !strings.Contains(w, name) })
	if len(about) == 0 {
		about = warnings
	}
	return "its log has: " + strings.Join(slices.Compact(about), "; ")
}

// isEphemeral reports whether the consumer in a directory is known to be ephemeral.
// It returns false if the configuration is encrypted.
func isEphemeral(dir string) bool {
	config, err := os.ReadFile(filepath.Join(dir, server.JetStreamMetaFile))
	var info server.FileConsumerInfo
	return err == nil && json.NewDecoder(bytes.NewReader(config)).Decode(&info) == nil && info.Durable == ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// MayCreate returns an error if the store has a stream of that name in any account.
// A caller that finds no such stream on the server must not create it then: the
// server would overwrite the stored one.
func (b *Broker) MayCreate(stream string) error {
	streams, err := streamDirs(b.cfg.storeDir())
	if err != nil {
		return err
	}
	for _, d := range streams {
		if d.stream == stream {
			return fmt.Errorf("the broker does not know it, but it is stored in %s, in account %s; a new stream would overwrite it or make its events inaccessible: "+
				"let the ingress connect as a user of that account, restore the directory from a backup, or move it away", d.path, d.account)
		}
	}
	return nil
}
