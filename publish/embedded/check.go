package embedded

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"versive-ingress/publish/access"
)

// nats-server skips a stream that it cannot read at the start, with a warning, and
// overwrites it when a stream of that name is created. Therefore this package checks
// the whole store before each start of the server, and after it that the server has
// recovered everything. The checks before the start come first and change nothing.
// Repairs follow only if none fails.

// prepare checks the store and repairs it for a server with these options. No
// server may be running.
func (b *Broker) prepare(store string, options *server.Options) error {
	if err := checkAccess(store); err != nil {
		return err
	}
	repairs, err := findRepairs(store)
	if err != nil {
		return err
	}
	if err := checkCluster(store, options); err != nil {
		return err
	}
	for _, r := range repairs {
		b.cfg.Logger.Warn("repairing the store: "+r.action, "path", r.path)
		if err := r.do(); err != nil {
			return fmt.Errorf("repairing the store: %s: %w", r.action, err)
		}
	}
	if err := removeLeftovers(store); err != nil {
		return fmt.Errorf("removing temporary files: %w", err)
	}
	if err := rewriteLastBlocks(store, b.cfg.Logger); err != nil {
		return fmt.Errorf("rewriting the last blocks of the store: %w", err)
	}
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	b.unsynced = nil
	return nil
}

// checkAccess returns an error if this process cannot read and write every file
// and directory of the store.
func checkAccess(store string) error {
	var first error // of the failed files
	var failed int
	err := walk(store, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.IsDir():
			if err = unix.Faccessat(unix.AT_FDCWD, p, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
				err = &fs.PathError{Op: "open", Path: p, Err: err}
			}
		case d.Type().IsRegular():
			var f *os.File
			if f, err = os.OpenFile(p, os.O_RDWR, 0); err == nil {
				f.Close()
			}
		}
		if err == nil {
			return nil
		}
		if failed++; first == nil {
			first = err
		}
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if first == nil {
		return err
	}
	return fmt.Errorf("%w; files with this problem: %d; nothing was changed", access.Explain(first, filepath.Dir(store)), failed)
}

const migration = "versive-ingress broker, and docs/operations.md#migrate-the-streams"

// checkCluster returns an error if the streams were stored by a cluster and these
// options have none, or the reverse: the server would not find them. A cluster
// reads the list of its streams from its Raft log, and removes others.
func checkCluster(store string, o *server.Options) error {
	if o.JetStreamExtHint == "will_extend" { // may join a cluster through a leaf node
		return nil
	}
	clustered, account, streams := isClustered(o), clusterLog(store), streams(store)
	system := cmp.Or(o.SystemAccount, server.DEFAULT_SYSTEM_ACCOUNT)
	switch {
	case clustered && account != "" && !exists(filepath.Join(store, system, "_js_")):
		return fmt.Errorf("%s has the list of the cluster's streams in the system account %s, but system_account is now %s: the cluster would begin without the list, and remove the streams; "+
			"set it back, or stop all servers of the cluster and move the list on each: mkdir %s; mv %s %[4]s", store, account, system,
			access.Quote(filepath.Join(store, system)), access.Quote(filepath.Join(store, account, "_js_")))
	case clustered && account == "" && len(streams) > 0:
		return fmt.Errorf("%s has the stream %s of a single server, which the cluster in the configuration file would remove; start without the cluster, or migrate the streams: "+migration, store, streams[0].stream)
	case !clustered && account != "":
		return fmt.Errorf("%s belongs to a server of a cluster, but the configuration has no cluster; start with the configuration file of the cluster, or migrate the streams: "+migration, store)
	}
	return nil
}

// checkRecovered returns an error if s, which has just started, has not recovered a
// stream or durable consumer that was in the store before. The warnings are those
// that s has logged.
func checkRecovered(s *server.Server, store string, before []asset, warnings []string) error {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Consumer: true, DirectConsumer: true, Limit: math.MaxInt})
	if err != nil {
		return err
	}
	known := make(map[string]bool) // directories of assets
	var accounts []string          // with JetStream
	for _, account := range info.AccountDetails {
		accounts = append(accounts, account.Id)
		for _, stream := range account.Streams {
			dir := filepath.Join(store, account.Id, "streams", stream.Name)
			known[dir] = true
			for _, c := range slices.Concat(stream.Consumer, stream.DirectConsumer) {
				known[filepath.Join(dir, "obs", c.Name)] = true
			}
		}
	}
	for _, a := range before {
		switch {
		case known[a.dir]:
		case !slices.Contains(accounts, a.account):
			return a.unreachable(store, accounts)
		case !a.isEphemeral() && a.remains():
			return fmt.Errorf("the server has not recovered the %v in %s; its log has: %s; fix the cause, or restore it from a backup",
				a, a.dir, strings.Join(slices.Compact(warnings), "; "))
		}
	}
	return nil
}

// remains reports whether the asset still exists after a second, in which the server
// can finish deleting it.
func (a asset) remains() bool {
	for range 20 {
		if !exists(a.dir) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// isEphemeral reports whether the asset is known to be an ephemeral consumer. It returns
// false if the configuration is encrypted.
func (a asset) isEphemeral() bool {
	config, err := os.ReadFile(a.file(server.JetStreamMetaFile))
	var info server.FileConsumerInfo
	return a.consumer != "" && err == nil && json.Unmarshal(config, &info) == nil && info.Durable == ""
}

// unreachable returns the error for an asset of an account without JetStream.
func (a asset) unreachable(store string, accounts []string) error {
	move := "back it up with the old configuration and restore it with this one (" + migration + ")"
	if len(accounts) == 1 && clusterLog(store) == "" && !exists(filepath.Join(store, accounts[0])) && !a.isEncrypted() {
		move = fmt.Sprintf("move the account's streams and consumers to %s: mv %s %s",
			accounts[0], access.Quote(filepath.Join(store, a.account)), access.Quote(filepath.Join(store, accounts[0])))
	}
	return fmt.Errorf("%s is a stream of the account %s, which has no JetStream in the configuration, or cannot be resolved: "+
		"its messages would not be accessible, and resent events would be stored twice; start with the old configuration, "+
		"move the directory out of the store if it is no longer needed, or %s", a.dir, a.account, move)
}

// MayCreate returns an error if the store has a stream of that name in any account.
// A caller that finds no such stream on the server must not create it then: the
// server would overwrite the stored one. On a cluster only a stream counts that was there
// at the start, because another ingress may have just created it.
func (b *Broker) MayCreate(stream string) error {
	b.mu.Lock()
	found, clustered := b.found, b.server.JetStreamIsClustered()
	b.mu.Unlock()
	for _, a := range streams(b.cfg.storeDir()) {
		if a.stream == stream && (!clustered || slices.Contains(found, a)) {
			return fmt.Errorf("the broker does not know it, but it is stored in %s, in account %s; a new stream would overwrite it or make its events inaccessible: "+
				"let the ingress connect as a user of that account, restore the directory from a backup, or move it away", a.dir, a.account)
		}
	}
	return nil
}
