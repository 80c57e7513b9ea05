package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// nats-server skips a stream that it cannot read at the start, with a warning, and
// overwrites it when a stream of that name is created. Therefore this package
// checks the whole store before each start of the server. The store is
//
//	<account>/streams/<stream>/meta.inf, meta.sum                 the configuration and its checksum
//	<account>/streams/<stream>/msgs/N.blk                         the messages
//	<account>/streams/<stream>/obs/<consumer>/meta.inf, meta.sum  a consumer; its position is in o.dat
//	<system account>/_js_/<group>/msgs/N.blk                      a Raft log of a cluster; the group _meta_ lists its streams
//
// All checks come first and change nothing. Repairs follow only if no check fails.

// storeDir returns where the server keeps its store.
func (c Config) storeDir() string { return filepath.Join(c.Dir, server.JetStreamStoreDir) }

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
		return err
	}
	return rewriteLastBlocks(store)
}

// checkAccess returns an error if this process cannot read and write every file
// and directory of the store.
func checkAccess(store string) error {
	var first error // of the failed files
	var path string // of that file
	var failed int
	err := walk(store, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.IsDir():
			err = unix.Faccessat(unix.AT_FDCWD, p, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS)
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
			first, path = err, p
		}
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if first == nil {
		return err
	}
	return fmt.Errorf("%w; files with this problem: %d; nothing was changed", accessError(filepath.Dir(store), path, first), failed)
}

// accessError returns an error that explains why a file below the data directory
// dir cannot be opened, and has the command that fixes it. The command applies to all
// of dir, because the lock and the high-water marks have the owner of the store.
func accessError(dir, path string, err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err
	}
	info, statErr := os.Lstat(path)
	for path = filepath.Clean(path); errors.Is(statErr, fs.ErrPermission) && path != filepath.Clean(dir); {
		path = filepath.Dir(path) // the nearest directory that can be examined
		info, statErr = os.Lstat(path)
	}
	if statErr != nil {
		return fmt.Errorf("%s cannot be read: %w", path, statErr)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	owner := info.Sys().(*syscall.Stat_t)
	remedy := "check the kernel's log, the mount options and the output of lsattr"
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EPERM) {
		remedy = "run: chmod -R u+rwX " + quote(dir)
		if int(owner.Uid) != uid {
			remedy = fmt.Sprintf("run as root: chown -R %d:%d %s", uid, gid, quote(dir))
		}
	}
	return fmt.Errorf("%s cannot be opened for reading and writing: %w; it belongs to uid %d, gid %d and has mode %v, but this process has uid %d, gid %d; %s",
		path, err, owner.Uid, owner.Gid, info.Mode(), uid, gid, remedy)
}

// quote quotes a path for a shell.
func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

// A streamDir is the directory of a stream.
type streamDir struct {
	account, stream string
	path            string
}

// streamDirs returns the directories of all streams, except those that the server
// is deleting, whose names begin with a dot.
func streamDirs(store string) ([]streamDir, error) {
	names, err := fs.Glob(os.DirFS(store), "*/streams/*")
	if err != nil {
		return nil, err
	}
	var dirs []streamDir
	for _, name := range names {
		account, stream, _ := strings.Cut(name, "/streams/")
		d := streamDir{account, stream, filepath.Join(store, name)}
		if info, err := os.Stat(d.path); err == nil && info.IsDir() && !strings.HasPrefix(stream, ".") {
			dirs = append(dirs, d)
		}
	}
	return dirs, nil
}

// consumers returns the names of the consumers with a directory.
func (d streamDir) consumers() ([]string, error) {
	entries, err := os.ReadDir(d.consumerDir(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// consumerDir returns the directory of a consumer.
func (d streamDir) consumerDir(name string) string { return filepath.Join(d.path, "obs", name) }

// checkCluster returns an error if the streams were stored by a cluster and these
// options have none, or the reverse: the server would not find them. A cluster
// reads the list of its streams from its Raft log, and removes others.
func checkCluster(store string, o *server.Options) error {
	if o.JetStreamExtHint == "will_extend" { // may join a cluster through a leaf node
		return nil
	}
	clustered := o.Cluster.Port != 0 || o.Gateway.Port != 0
	meta, err := fs.Glob(os.DirFS(store), "*/_js_/_meta_")
	if err != nil {
		return err
	}
	streams, err := streamDirs(store)
	switch {
	case err != nil:
		return err
	case clustered && len(meta) == 0 && len(streams) > 0:
		return fmt.Errorf("%s has the stream %s of a single server, which the cluster in the configuration file would remove; start without the cluster, or move the streams: "+
			"back them up without the cluster (nats stream backup), start the cluster with an empty data directory, restore the streams with one replica (nats stream restore), and then raise INGRESS_REPLICAS", store, streams[0].stream)
	case !clustered && len(meta) > 0:
		return fmt.Errorf("%s belongs to a server of a cluster, but the configuration has no cluster; start with the configuration file of the cluster, or move the streams: "+
			"back them up in the cluster (nats stream backup), start without the cluster and with an empty data directory, and restore them (nats stream restore --replicas 1)", store)
	}
	return nil
}
