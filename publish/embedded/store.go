package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// The store of the server, below the data directory, is
//
//	<account>/streams/<stream>/meta.inf, meta.sum                 the configuration and its checksum
//	<account>/streams/<stream>/msgs/N.blk                         the messages
//	<account>/streams/<stream>/obs/<consumer>/meta.inf, meta.sum  a consumer; its position is in o.dat
//	<system account>/_js_/<group>/msgs/N.blk                      a Raft log of a cluster; the group _meta_ lists its streams

func (c Config) storeDir() string { return filepath.Join(c.Dir, server.JetStreamStoreDir) }

// An asset is a stream or a consumer in the store.
type asset struct {
	account, stream string
	consumer        string // empty for the stream itself
	dir             string
}

// assets returns the streams and then the consumers in the store, except those that the
// server is deleting, whose names begin with a dot.
func assets(store string) (all []asset) {
	for _, pattern := range [...]string{"*/streams/[^.]*", "*/streams/[^.]*/obs/*"} {
		names, _ := fs.Glob(os.DirFS(store), pattern) // it fails only for a malformed pattern
		for _, name := range names {
			part := strings.Split(name, "/")
			a := asset{account: part[0], stream: part[2], dir: filepath.Join(store, name)}
			if len(part) > 3 {
				a.consumer = part[4]
			}
			if info, err := os.Stat(a.dir); err == nil && info.IsDir() {
				all = append(all, a)
			}
		}
	}
	return all
}

func streams(store string) []asset {
	return slices.DeleteFunc(assets(store), func(a asset) bool { return a.consumer != "" })
}

func (a asset) String() string {
	if a.consumer == "" {
		return fmt.Sprintf("stream %s of account %s", a.stream, a.account)
	}
	return fmt.Sprintf("consumer %s of stream %s", a.consumer, a.stream)
}

func (a asset) file(name string) string { return filepath.Join(a.dir, name) }

func (a asset) isEncrypted() bool { return exists(a.file(server.JetStreamMetaFileKey)) }

// walk is filepath.WalkDir, except that it ignores a missing dir and files that a
// running broker removes, skips lost+found directories, and follows dir if that
// is a symbolic link.
func walk(dir string, visit fs.WalkDirFunc) error {
	return filepath.WalkDir(dir+"/.", func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case d != nil && d.IsDir() && d.Name() == "lost+found":
			return fs.SkipDir
		}
		return visit(path, d, err)
	})
}

// blockFiles returns the paths of the blocks in a directory, in ascending order.
func blockFiles(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".blk" {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(blockIndex(a), blockIndex(b)) })
	return paths, nil
}

// blockIndex returns the number in the name of a block file.
func blockIndex(path string) int {
	index, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk"))
	return index
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
