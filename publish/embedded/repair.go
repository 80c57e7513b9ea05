package embedded

import (
	"bytes"
	"cmp"
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

	"github.com/nats-io/nats-server/v2/server"
)

// A repair makes a file or directory readable for the server.
type repair struct {
	action string
	path   string
	do     func() error
}

// findRepairs finds streams and consumers whose creation, update or deletion was
// interrupted. It returns an error if one is damaged beyond repair. It changes
// nothing.
func findRepairs(store string) ([]repair, error) {
	var repairs []repair
	// check checks the configuration in a directory. The checksum depends on the
	// name.
	check := func(dir, name string, parse func(config []byte) error) (incomplete bool, err error) {
		config, err := os.ReadFile(filepath.Join(dir, server.JetStreamMetaFile))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(config) == 0 {
			repairs = append(repairs, repair{"removing the remains of an interrupted creation or deletion", dir, func() error { return removeAll(dir) }})
			return true, nil
		}
		if err != nil {
			return false, err
		}
		sum, sumFile := checksum(name, config), filepath.Join(dir, server.JetStreamMetaFileSum)
		if have, err := os.ReadFile(sumFile); err == nil && string(have) == sum {
			return false, nil
		}
		// Encryption authenticates a configuration, so its checksum does not matter.
		if _, err := os.Stat(filepath.Join(dir, server.JetStreamMetaFileKey)); err != nil {
			if err := parse(config); err != nil {
				return false, fmt.Errorf("%s is damaged: it does not match meta.sum next to it and is not a valid configuration (%w); "+
					"restore both files from a backup", filepath.Join(dir, server.JetStreamMetaFile), err)
			}
		}
		repairs = append(repairs, repair{"writing the checksum of a configuration whose update was interrupted", sumFile, func() error { return writeFile(sumFile, []byte(sum)) }})
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

// parseConfig decodes a configuration into info as the server does, and checks that
// *name, a field of info, is then want.
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

// storedBlock returns the path of a non-empty block of the stream, or "".
func (d streamDir) storedBlock() string {
	blocks, _ := blockFiles(filepath.Join(d.path, "msgs"))
	for _, block := range blocks {
		if info, err := os.Stat(block); err != nil || info.Size() > 0 {
			return block
		}
	}
	return ""
}

// checksum returns the content of meta.sum for a configuration.
func checksum(name string, config []byte) string {
	digest := newDigest(name)
	digest.Write(config)
	return hex.EncodeToString(digest.Sum(nil))
}

// removeLeftovers removes the temporary files of a server that was killed. They can
// contain messages that have been erased or have expired since.
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

// maxUnsynced is an upper bound, in bytes, of what the server writes to a stream
// between two fsyncs: a batch of package publish has at most 256 messages of 64 KiB
// and their headers.
const maxUnsynced = 20 << 20

// rewriteLastBlocks rewrites the last blocks of all streams and Raft logs, so that
// the disk has what the server reads. When an fsync fails, Linux marks the pages as
// clean: they read as written, although the disk does not have them, and are never
// written back. A server that appended to such a block would lose the new messages
// at the next reboot, because it reads a block only up to the first damaged record.
// A replicated stream can have more unsynced messages, but its Raft log has them.
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
			// io.Copy would not do, because it may clone the extents of the file.
			data, err := os.ReadFile(block)
			if err == nil {
				err = writeFile(block, data)
			}
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				err = overwriteFile(block, data)
			}
			if err != nil {
				return fmt.Errorf("rewriting the last blocks of the store: %w", err)
			}
			written += len(data)
		}
	}
	return nil
}

// blockFiles returns the paths of the blocks in a directory, in ascending order.
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
