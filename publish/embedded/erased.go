package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish/access"
)

// A secure delete is not durable: to overwrite a message, the server writes its block
// to a new file and renames that over the old one without an fsync of the directory.
// After a power cut within the next seconds, the old file is back. If the server is
// killed before the rename, the old file stays. In both cases the server considers the
// message deleted and does not overwrite it again. So
//
//	Sync      makes the renames durable, and finds content that is still there
//	Schedule  appends what Sync has found to a file in the data directory
//	start     overwrites what is scheduled, before the server opens the store
//
// Sync and Schedule run in another process, beside the server, which may be writing: they
// only read blocks. Only the start, which has locked the directory, writes to blocks.

// Erased identifies messages of a stream that an embedded broker has securely
// deleted.
type Erased struct {
	Stream    string
	Created   time.Time // of the stream, to distinguish it from other streams of its name
	Sequences []uint64
	// Until is an upper bound of the time of the deletions, set by Schedule. It
	// excludes later messages, because the server reuses sequences after it has
	// dropped the messages that follow a damaged record.
	Until time.Time
}

// ErrEncrypted means that the stream is encrypted, so the broker does not overwrite
// its messages.
var ErrEncrypted = errors.New("the stream is encrypted")

// ErrCompressed means that the stream has compressed blocks, which are not searched.
var ErrCompressed = errors.New("the block is compressed")

// Sync makes the broker's overwrites durable. It returns the sequences of messages
// whose content is still in a block file, for [Erased.Schedule]. The broker may be
// running on dir, its data directory. The error wraps fs.ErrNotExist if the stream
// does not exist, [ErrEncrypted] or [ErrCompressed].
func (e Erased) Sync(dir string) (remaining []uint64, err error) {
	blocks, err := e.blocks(dir)
	if err == nil {
		err = syncRenames(blocks)
	}
	if err == nil {
		err = e.find(blocks, func(_ string, _ []byte, stale []record) error {
			for _, m := range stale {
				remaining = append(remaining, m.sequence)
			}
			return nil
		})
	}
	slices.Sort(remaining)
	return remaining, err
}

// blocks returns the directory of the stream's block files. The error wraps
// fs.ErrNotExist if the stream does not exist or this user cannot see it.
func (e Erased) blocks(dir string) (string, error) {
	store := Config{Dir: dir}.storeDir()
	err := fmt.Errorf("stream %s, created %s, is not in %s, or this user cannot read it: %w", e.Stream, e.Created.Format(time.RFC3339), store, fs.ErrNotExist)
	for _, a := range streams(store) {
		switch {
		case a.stream != e.Stream:
		case a.isEncrypted():
			err = ErrEncrypted // meta.inf is encrypted too
		default:
			text, failed := os.ReadFile(a.file(server.JetStreamMetaFile))
			if failed != nil {
				return "", failed
			}
			var meta struct{ Created time.Time }
			if json.Unmarshal(text, &meta) == nil && meta.Created.Equal(e.Created) {
				return a.file("msgs"), nil
			}
		}
	}
	return "", err
}

// find calls visit for each block that still has the content of erased messages, with
// their records, the newest block first.
func (e Erased) find(blocks string, visit func(path string, block []byte, stale []record) error) error {
	paths, err := blockFiles(blocks)
	if err != nil {
		return err
	}
	sequences := slices.Sorted(slices.Values(e.Sequences))
	for _, path := range slices.Backward(paths) {
		first, err := firstSequence(path)
		if err == nil && first > 0 {
			from, _ := slices.BinarySearch(sequences, first)
			err = e.findIn(path, sequences[from:], visit)
			sequences = sequences[:from] // the rest is in earlier blocks
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a running server has removed it
			return fmt.Errorf("block file %s: %w", path, err)
		}
	}
	return nil
}

// findIn is find for one block. The sequences must be sorted.
func (e Erased) findIn(path string, sequences []uint64, visit func(path string, block []byte, stale []record) error) error {
	if len(sequences) == 0 {
		return nil
	}
	block, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var stale []record
	for m, err := range records(e.Stream, blockIndex(path), block) {
		if err != nil {
			return err
		}
		if m.deletion {
			continue
		}
		if m.sequence > sequences[len(sequences)-1] {
			break // a running server may be writing the end of the block
		}
		stored := e.Until.IsZero() || m.timestamp <= e.Until.UnixNano()
		if _, ok := slices.BinarySearch(sequences, m.sequence); ok && stored && !m.erased {
			stale = append(stale, m)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return visit(path, block, stale)
}

// firstSequence returns the sequence of the first message of a block, 0 if it has
// none. It reads no more than the first records' headers.
func firstSequence(path string) (uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	header := make([]byte, recordHeaderLen)
	for offset := int64(0); ; {
		if _, err := file.ReadAt(header, offset); errors.Is(err, io.EOF) {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
		if isCompressed(header) && offset == 0 {
			return 0, ErrCompressed
		}
		if sequence := binary.LittleEndian.Uint64(header[4:]); sequence&deletionBit == 0 {
			return sequence &^ erasedBit, nil
		}
		length := int64(binary.LittleEndian.Uint32(header) &^ headersBit)
		if length < recordHeaderLen+checksumLen {
			return 0, fmt.Errorf("%w at offset %d: its length is %d", errDamaged, offset, length)
		}
		offset += length
	}
}

// scheduled is the file in the data directory that lists what the next start
// overwrites, with a line of JSON for each call of Schedule.
const scheduled = "erased.jsonl"

// Schedule makes the next broker on dir overwrite the content of the messages
// before it opens the store. The messages must have been deleted.
func (e Erased) Schedule(dir string) error {
	e.Until = time.Now()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, scheduled), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_ = file.Chmod(0o644)                                                // readable by the broker's user, even if root has a strict umask
	_, err = file.Write(slices.Concat([]byte("\n"), line, []byte("\n"))) // the previous line may be truncated
	return errors.Join(err, file.Sync(), file.Close(), access.SyncDir(dir))
}

// IsScheduled reports whether the next broker on dir overwrites content of erased messages,
// which [Erased.Schedule] has recorded. It is false if dir cannot be read.
func IsScheduled(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, scheduled))
	return err == nil
}

// overwriteScheduled overwrites the scheduled messages. No server may be running on
// dir. After an error, which it only logs, they stay scheduled.
func overwriteScheduled(dir string, log *slog.Logger) {
	path := filepath.Join(dir, scheduled)
	lines, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	overwritten := 0
	for line := range bytes.Lines(lines) {
		var e Erased
		if json.Unmarshal(line, &e) != nil {
			continue // empty, or truncated by a crash before Schedule returned
		}
		blocks, failed := e.blocks(dir)
		if failed == nil {
			failed = e.find(blocks, func(path string, block []byte, stale []record) error {
				overwritten += len(stale)
				overwrite(block, stale, blockDigest(e.Stream, blockIndex(path)))
				return access.Replace(path, block)
			})
		}
		// The stream may have been deleted, encrypted or compressed since.
		if !errors.Is(failed, fs.ErrNotExist) && !errors.Is(failed, ErrEncrypted) && !errors.Is(failed, ErrCompressed) {
			err = errors.Join(err, failed)
		}
	}
	if err == nil {
		err = errors.Join(os.Remove(path), access.SyncDir(dir))
	}
	if err != nil {
		log.Error("erased messages could not be overwritten; the next start will retry", "file", path, "error", err)
		return
	}
	log.Info("overwrote erased messages that a crash had restored", "messages", overwritten)
}

// overwrite replaces the content of messages in a block with random bytes, as the server
// does.
func overwrite(block []byte, stale []record, digest hash.Hash) {
	for _, m := range stale {
		content := block[m.offset : m.offset+m.length]
		clear(content[:recordHeaderLen]) // no subject, no timestamp
		binary.LittleEndian.PutUint32(content, uint32(m.length))
		binary.LittleEndian.PutUint64(content[4:], m.sequence|erasedBit)
		sum := m.length - checksumLen
		_, _ = rand.Read(content[recordHeaderLen:sum]) // never fails
		digest.Reset()
		digest.Write(content[4:20])
		digest.Write(content[recordHeaderLen:sum])
		copy(content[sum:], digest.Sum(nil))
	}
}
