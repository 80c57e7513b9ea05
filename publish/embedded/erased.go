package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// This file completes what the server leaves undone when it overwrites a
// message. The server writes the message's block to a new file and renames that
// over the old one without an fsync of the directory: a power cut within the
// next seconds brings the old file back. If the server is killed before the
// rename, the old file stays. In both cases the server counts the message as
// deleted and never overwrites it again, so its content is overwritten before
// the next start.

// Erased names messages of a stream of an embedded broker that the broker has
// overwritten and deleted.
type Erased struct {
	Stream    string
	Created   time.Time // of the stream; another stream of this name has other messages
	Sequences []uint64
	// Until is when they were deleted, at the latest; set by Schedule. The server
	// uses the sequences again if it drops what follows a damaged record.
	Until time.Time
}

// ErrEncrypted means that the broker deletes from the stream without overwriting.
var ErrEncrypted = errors.New("the stream is encrypted")

// ErrCompressed means that not all of the stream's blocks can be read.
var ErrCompressed = errors.New("the block is compressed")

// Settle makes durable what the broker has overwritten, and returns those of the
// messages whose content is in a block file nevertheless; see [Erased.Schedule].
// The broker may run on dir, its data directory, meanwhile. The error wraps
// fs.ErrNotExist if the stream is not there.
func (e Erased) Settle(dir string) (left []uint64, err error) {
	blocks, err := e.blocks(dir)
	if err == nil {
		err = syncRenames(blocks)
	}
	if err == nil {
		err = e.find(blocks, func(r residue) error {
			for _, m := range r.records {
				left = append(left, m.sequence)
			}
			return nil
		})
	}
	slices.Sort(left)
	return left, err
}

// blocks returns the directory of the stream's block files. The error wraps
// fs.ErrNotExist if the stream is not there, or not to be seen by this user.
func (e Erased) blocks(dir string) (string, error) {
	store := Config{Dir: dir}.storeDir()
	streams, err := streamDirs(store)
	if err != nil {
		return "", err
	}
	err = fmt.Errorf("stream %s of %s is not in %s, or this user cannot read it: %w", e.Stream, e.Created.Format(time.RFC3339), store, fs.ErrNotExist)
	for _, d := range streams {
		switch {
		case d.stream != e.Stream:
		case exists(filepath.Join(d.path, server.JetStreamMetaFileKey)):
			err = ErrEncrypted // and so is meta.inf
		default:
			text, failed := os.ReadFile(filepath.Join(d.path, server.JetStreamMetaFile))
			if failed != nil {
				return "", failed
			}
			var meta struct{ Created time.Time }
			if json.Unmarshal(text, &meta) == nil && meta.Created.Equal(e.Created) {
				return filepath.Join(d.path, "msgs"), nil
			}
		}
	}
	return "", err
}

// A residue is a block that has the content of erased messages.
type residue struct {
	path    string
	index   int
	block   []byte
	records []record // of these messages
}

// find calls visit with each block that has the content of a message, the newest
// first.
func (e Erased) find(blocks string, visit func(residue) error) error {
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
			sequences = sequences[:from] // are in the blocks before
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a running server has removed it
			return fmt.Errorf("block file %s: %w", path, err)
		}
	}
	return nil
}

// firstSequence returns the sequence of the first message of a block, or 0 if it
// has none. It reads only as far as it must.
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
		if bytes.HasPrefix(header, []byte("cmp")) && offset == 0 {
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

// findIn reads one block. The sequences are sorted.
func (e Erased) findIn(path string, sequences []uint64, visit func(residue) error) error {
	if len(sequences) == 0 {
		return nil
	}
	r := residue{path: path}
	_, err := fmt.Sscanf(filepath.Base(path), "%d.blk", &r.index)
	if err == nil {
		r.block, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	for m, err := range records(e.Stream, r.index, r.block) {
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
			r.records = append(r.records, m)
		}
	}
	if len(r.records) == 0 {
		return nil
	}
	return visit(r)
}

// scheduled is the file in the data directory that holds what the next start
// overwrites: a JSON object a line for each call of Schedule.
const scheduled = "erased.jsonl"

// Schedule makes the next start of a broker on dir overwrite the messages'
// content before it opens the store. The messages must be deleted.
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
	_ = file.Chmod(0o644)                                                // whatever root's umask is, the broker's user can read it
	_, err = file.Write(slices.Concat([]byte("\n"), line, []byte("\n"))) // the line before may have been cut short
	return errors.Join(err, file.Sync(), file.Close(), syncDir(dir))
}

// overwriteScheduled overwrites what was scheduled. No server may be running on
// dir. What it cannot overwrite stays scheduled, and is no reason not to start.
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
			continue // empty, or cut short by a crash before Schedule has returned
		}
		blocks, failed := e.blocks(dir)
		if failed == nil {
			failed = e.find(blocks, func(r residue) error {
				overwritten += len(r.records)
				return r.overwrite(e.Stream)
			})
		}
		// A stream that is gone, encrypted or compressed since then is no failure.
		if !errors.Is(failed, fs.ErrNotExist) && !errors.Is(failed, ErrEncrypted) && !errors.Is(failed, ErrCompressed) {
			err = errors.Join(err, failed)
		}
	}
	if err == nil {
		err = errors.Join(os.Remove(path), syncDir(dir))
	}
	if err != nil {
		log.Error("erased messages could not be overwritten; the next start tries again", "file", path, "error", err)
		return
	}
	log.Info("overwrote erased messages that a crash had brought back", "messages", overwritten)
}

// overwrite replaces the messages' content, as the server does, and writes the
// block anew.
func (r residue) overwrite(stream string) error {
	digest := blockDigest(stream, r.index)
	for _, m := range r.records {
		content := r.block[m.offset : m.offset+m.length]
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
	return writeFile(r.path, r.block)
}
