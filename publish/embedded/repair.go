package embedded

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish/access"
)

// A server that was killed, or a disk that failed, can leave
//
//	a stream or consumer without a configuration          removed, unless it has messages
//	a configuration that does not match its checksum      gets another, if it can be parsed
//	temporary files                                       removed
//	blocks in the page cache that the disk does not have  rewritten, the last without what is damaged
//
// Anything else is damage, which ends the start. findRepairs only looks; what it finds
// is done after all checks. No server runs meanwhile, and the data directory is locked,
// so one goroutine owns the whole store. Each step may be interrupted by a power cut:
// the next start finds the same again.

// A repair makes a file or directory readable for the server.
type repair struct {
	action string
	path   string
	do     func() error
}

// findRepairs finds streams and consumers whose creation, update or deletion was
// interrupted. It returns an error if one is damaged beyond repair. It changes
// nothing.
func findRepairs(store string) (repairs []repair, err error) {
	removed := make(map[string]bool) // directories
	for _, a := range assets(store) {
		if a.consumer != "" && removed[filepath.Dir(filepath.Dir(a.dir))] {
			continue // with its stream
		}
		config, err := os.ReadFile(a.file(server.JetStreamMetaFile))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(config) == 0 {
			if block := a.storedBlock(); block != "" {
				return nil, fmt.Errorf("%s has messages, but no configuration in %s; restore meta.inf and meta.sum from a backup, or, if the stream was being deleted, remove the directory",
					block, a.file(server.JetStreamMetaFile))
			}
			removed[a.dir] = true
			repairs = append(repairs, repair{"removing the remains of an interrupted creation or deletion", a.dir, func() error {
				return errors.Join(os.RemoveAll(a.dir), access.SyncDir(filepath.Dir(a.dir)))
			}})
			continue
		}
		if err != nil {
			return nil, err
		}
		sum, sumFile := a.checksum(config), a.file(server.JetStreamMetaFileSum)
		if have, err := os.ReadFile(sumFile); err == nil && string(have) == sum {
			continue
		}
		if !a.isEncrypted() { // encryption authenticates a configuration, so its checksum does not matter
			if err := a.parse(config); err != nil {
				return nil, fmt.Errorf("%s is damaged: it does not match meta.sum next to it and is not a valid configuration (%w); "+
					"restore both files from a backup", a.file(server.JetStreamMetaFile), err)
			}
		}
		repairs = append(repairs, repair{"writing the checksum of a configuration whose update was interrupted", sumFile, func() error {
			return access.Replace(sumFile, []byte(sum))
		}})
	}
	return repairs, nil
}

// parse decodes the configuration as the server does, and checks its name.
func (a asset) parse(config []byte) error {
	var stream server.FileStreamInfo
	var consumer server.FileConsumerInfo
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	info, name, want := any(&stream), &stream.Name, a.stream
	if a.consumer != "" {
		info, name, want = &consumer, &consumer.Name, a.consumer
	}
	if err := decoder.Decode(info); err != nil {
		return err
	}
	if *name != want {
		return fmt.Errorf("it has the name %q", *name)
	}
	return nil
}

// checksum returns the content of meta.sum for a configuration.
func (a asset) checksum(config []byte) string {
	name := a.stream
	if a.consumer != "" {
		name += "/" + a.consumer
	}
	digest := newDigest(name)
	digest.Write(config)
	return hex.EncodeToString(digest.Sum(nil))
}

// storedBlock returns the path of a non-empty block of a stream, or "".
func (a asset) storedBlock() string {
	blocks, _ := blockFiles(a.file("msgs"))
	for _, block := range blocks {
		if info, err := os.Stat(block); err != nil || info.Size() > 0 {
			return block
		}
	}
	return ""
}

// removeLeftovers removes the temporary files of a server that was killed. They can
// contain messages that have been erased or have expired since.
func removeLeftovers(store string) error {
	return walk(store, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".tmp") || strings.HasSuffix(path, ".new")) {
			err = errors.Join(os.Remove(path), access.SyncDir(filepath.Dir(path)))
		}
		return err
	})
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
//
// A replicated stream can have more unsynced messages, but its Raft log has them.
//
// If the page cache has dropped such pages, or the disk has damaged others, a server with
// a valid index does not notice, and appends all the same. So what is damaged in the last
// block is dropped, unless the block is encrypted. In a cluster it is left to the server,
// which drops the rest of the block as well, because it gets only the end of a stream from
// the others.
func rewriteLastBlocks(store string, log *slog.Logger) error {
	clustered := clusterLog(store) != ""
	return visitLastBlocks(store, func(path string, last bool) (size int64, err error) {
		return rewriteFile(path, func(data []byte) []byte {
			if clustered || !last {
				return data
			}
			intact := withoutDamage(path, data)
			if !bytes.Equal(intact, data) {
				log.Warn("repairing the store: dropping what is damaged in the last block of a stream", "path", path)
			}
			return intact
		})
	})
}

// visitLastBlocks calls visit, which returns the size of the file, for the blocks of all
// streams and Raft logs that can have unsynced messages. To the last of each the server
// appends.
func visitLastBlocks(store string, visit func(path string, last bool) (size int64, err error)) error {
	for _, pattern := range [...]string{"*/streams/[^.]*/msgs", "*/_js_/*/msgs"} {
		dirs, _ := fs.Glob(os.DirFS(store), pattern) // it fails only for a malformed pattern
		for _, dir := range dirs {
			blocks, err := blockFiles(filepath.Join(store, dir))
			if err != nil {
				return err
			}
			visited := int64(0)
			for i, block := range slices.Backward(blocks) {
				if visited >= maxUnsynced && i < len(blocks)-2 {
					break
				}
				size, err := visit(block, i == len(blocks)-1)
				if err != nil {
					return err
				}
				visited += size
			}
		}
	}
	return nil
}

// rewriteFile durably replaces a file by a repaired copy of it, or overwrites it in place if
// the disk has no space for the copy. It returns its size.
func rewriteFile(path string, repair func([]byte) []byte) (size int64, err error) {
	// io.Copy would not do, because it may clone the extents of the file.
	data, err := os.ReadFile(path)
	if err == nil {
		data = repair(data)
		err = access.Replace(path, data)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = overwriteFile(path, data)
	}
	return int64(len(data)), err
}
