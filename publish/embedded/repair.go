package embedded

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
)

// A repair brings a file or directory into a state that the server can read.
type repair struct {
	action string
	path   string
	do     func() error
}

// findRepairs looks for streams and consumers whose creation, update or
// deletion was interrupted. It returns an error if one is damaged and cannot be
// repaired. It changes nothing.
func findRepairs(store string) ([]repair, error) {
	var repairs []repair
	// check looks at a directory with a configuration. The name is the one that
	// goes into the checksum.
	check := func(dir, name string, parse func(config []byte) error) (incomplete bool, err error) {
		config, err := os.ReadFile(filepath.Join(dir, server.JetStreamMetaFile))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(config) == 0 {
			repairs = append(repairs, repair{"removing what an interrupted creation or deletion has left", dir, func() error { return removeAll(dir) }})
			return true, nil
		}
		if err != nil {
			return false, err
		}
		sum, sumFile := checksum(name, config), filepath.Join(dir, server.JetStreamMetaFileSum)
		if have, err := os.ReadFile(sumFile); err == nil && string(have) == sum {
			return false, nil
		}
		// An encrypted configuration is authenticated by its key.
		if _, err := os.Stat(filepath.Join(dir, server.JetStreamMetaFileKey)); err != nil {
			if err := parse(config); err != nil {
				return false, fmt.Errorf("%s is damaged: it does not match meta.sum beside it, and it is no configuration (%w); "+
					"restore both files from a backup", filepath.Join(dir, server.JetStreamMetaFile), err)
			}
		}
		repairs = append(repairs, repair{"writing the checksum of a configuration, whose update was interrupted", sumFile, func() error { return writeFile(sumFile, []byte(sum)) }})
		return false, nil
	}

	streams, err := streamDirs(store)
	if err != nil {
		return nil, err
	}
	for _, d := range streams {
		incomplete, err := check(d.path, d.stream, func(config []byte) error {
			var info server.FileStreamInfo
			return parseConfig(config, &info, &info.Name, d.stream)
		})
		if err != nil {
			return nil, err
		}
		if incomplete {
			if block := d.storedBlock(); block != "" {
				return nil, fmt.Errorf("%s has messages, but no configuration in %s; restore meta.inf and meta.sum from a backup, or, if the stream was being deleted, remove the directory",
					block, filepath.Join(d.path, server.JetStreamMetaFile))
			}
			continue
		}
		consumers, err := d.consumers()
		if err != nil {
			return nil, err
		}
		for _, name := range consumers {
			_, err := check(d.consumerDir(name), d.stream+"/"+name, func(config []byte) error {
				var info server.FileConsumerInfo
				return parseConfig(config, &info, &info.Name, name)
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return repairs, nil
}

// parseConfig reads a configuration into info as the server does, and checks
// the name that it then has.
func parseConfig(config []byte, info any, name *string, want string) error {
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(info); err != nil {
		return err
	}
	if *name != want {
		return fmt.Errorf("it has the name %q", *name)
	}
	return nil
}

// storedBlock returns a block of the stream that has data, or "".
func (d streamDir) storedBlock() string {
	blocks, _ := blockFiles(filepath.Join(d.path, "msgs"))
	for _, block := range blocks {
		if info, err := os.Stat(block); err != nil || info.Size() > 0 {
			return block
		}
	}
	return ""
}

// checksum returns what the server writes to meta.sum.
func checksum(name string, config []byte) string {
	key := sha256.Sum256([]byte(name))
	digest, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	digest.Write(config)
	return hex.EncodeToString(digest.Sum(nil))
}

// removeLeftovers removes the temporary files of a server that was killed.
// They can hold messages that were erased or have expired since.
func removeLeftovers(store string) error {
	changed := make(map[string]struct{}) // directories
	err := walk(store, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(path, ".tmp"), strings.HasSuffix(path, ".new"):
			changed[filepath.Dir(path)] = struct{}{}
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing temporary files: %w", err)
	}
	for dir := range changed {
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("removing temporary files: %w", err)
		}
	}
	return nil
}

// maxUnsynced is an upper bound, in bytes, for what the server writes to a
// stream between two fsyncs: a batch of package publish, which is 256 messages
// of at most 64 KiB and their headers.
const maxUnsynced = 20 << 20

// rewriteLastBlocks writes the last blocks of all streams and Raft logs anew.
// When a write or an fsync fails, Linux takes the pages for clean: they are read
// as they were written, though the disk does not have them, and are never
// written again. A server that stored something after such a record would lose
// it at the next reboot, for it reads a block up to the first damaged record.
// After rewriteLastBlocks the disk has what the server reads. Of a replicated
// stream more can be unsynced, which its Raft log has.
func rewriteLastBlocks(store string) error {
	var dirs []string
	for _, pattern := range []string{"*/streams/[^.]*/msgs", "*/_js_/*/msgs"} {
		matches, err := fs.Glob(os.DirFS(store), pattern)
		if err != nil {
			return err
		}
		dirs = append(dirs, matches...)
	}
	for _, dir := range dirs {
		blocks, err := blockFiles(filepath.Join(store, dir))
		if err != nil {
			return err
		}
		written := 0
		for i, block := range slices.Backward(blocks) {
			if written >= maxUnsynced && i < len(blocks)-2 {
				break
			}
			// Not io.Copy: it may share the blocks of the file on the disk.
			data, err := os.ReadFile(block)
			if err == nil {
				err = writeFile(block, data)
			}
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				err = overwriteFile(block, data)
			}
			if err != nil {
				return fmt.Errorf("rewriting the last blocks of the store, so that the disk has what the server reads: %w", err)
			}
			written += len(data)
		}
	}
	return nil
}

// blockFiles returns the paths of the blocks in a directory, in their order.
func blockFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	type block struct {
		index int
		path  string
	}
	var blocks []block
	for _, e := range entries {
		var index int
		if n, _ := fmt.Sscanf(e.Name(), "%d.blk", &index); n == 1 && e.Name() == fmt.Sprintf("%d.blk", index) {
			blocks = append(blocks, block{index, filepath.Join(dir, e.Name())})
		}
	}
	slices.SortFunc(blocks, func(a, b block) int { return cmp.Compare(a.index, b.index) })
	paths := make([]string, len(blocks))
	for i, b := range blocks {
		paths[i] = b.path
	}
	return paths, nil
}
