package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"iter"
	"path/filepath"

	"github.com/minio/highwayhash"
)

// This file reads the message blocks of nats-server's file store, whose layout is
// private to the server. It does so only where the server has no API: before the
// server starts, and for messages that the server reports as deleted. TestRecords
// fails if an upgrade of the server changes the layout.
//
// A block file, msgs/N.blk, is a sequence of records:
//
//	4 bytes  length of the whole record; the top bit: it has headers
//	8 bytes  sequence; top bit: overwritten; next bit: a deletion marker
//	8 bytes  timestamp
//	2 bytes  length of the subject
//	subject, headers and data
//	8 bytes  checksum

const (
	recordHeaderLen = 22
	checksumLen     = 8

	headersBit  = 1 << 31
	erasedBit   = 1 << 63
	deletionBit = 1 << 62
)

// record is one record of a block file.
type record struct {
	offset, length int
	sequence       uint64 // without the two bits below
	timestamp      int64  // Unix nanoseconds; meaningless if erased
	erased         bool   // the server has overwritten the content
	deletion       bool   // marks an earlier record with this sequence as deleted
	subject        []byte // aliases the block; meaningless if erased
}

// errDamaged is wrapped by the error for the first damaged record of a block. The
// server does not read beyond it either.
var errDamaged = errors.New("damaged record")

// records yields the records of a stream's block, which must be neither encrypted
// nor compressed. It ends with the first damaged record, which it yields with an
// error that wraps errDamaged. The index is the number in the block's file name.
func records(stream string, index int, block []byte) iter.Seq2[record, error] {
	digest := blockDigest(stream, index)
	return func(yield func(record, error) bool) {
		for offset := 0; offset < len(block); {
			r, damage := readRecord(digest, block, offset)
			var err error
			if damage != "" {
				err = fmt.Errorf("%w at offset %d: %s", errDamaged, offset, damage)
			}
			if !yield(r, err) || err != nil {
				return
			}
			offset += r.length
		}
	}
}

// withoutDamage returns a stream's block without what is damaged, or the block itself if
// all of it is intact or it cannot be read. The sequences of dropped records are missing,
// as those of deleted messages are. The result does not end as the block does, so that the
// server recounts its messages.
func withoutDamage(path string, block []byte) []byte {
	stream := asset{dir: filepath.Dir(filepath.Dir(path))}
	if stream.isEncrypted() || isCompressed(block) {
		return block
	}
	digest := blockDigest(filepath.Base(stream.dir), blockIndex(path))
	var intact []byte
	end := 0 // of the last intact record
	for offset := 0; offset < len(block); {
		r, damage := readRecord(digest, block, offset)
		if damage != "" { // its length may be damaged too
			offset++
			continue
		}
		offset += r.length
		intact, end = append(intact, block[r.offset:offset]...), offset
	}
	switch {
	case len(intact) == len(block):
		return block
	case end == len(block):
		mark := make([]byte, recordHeaderLen+checksumLen)
		overwrite(mark, []record{{length: len(mark)}}, digest)
		intact = append(intact, mark...)
	}
	return intact
}

// isCompressed reports whether a block that begins like this is compressed.
func isCompressed(block []byte) bool { return bytes.HasPrefix(block, []byte("cmp")) }

// blockDigest returns the digest for the checksums of a block.
func blockDigest(stream string, index int) hash.Hash {
	return newDigest(fmt.Sprintf("%s-%d", stream, index))
}

// newDigest returns a digest with a key derived from a name, as the server uses
// for blocks and configurations.
func newDigest(name string) hash.Hash {
	key := sha256.Sum256([]byte(name))
	digest, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return digest
}

// readRecord returns the record at an offset of a block, and how it is damaged, or "".
func readRecord(digest hash.Hash, block []byte, offset int) (_ record, damage string) {
	rest := block[offset:]
	r := record{offset: offset, length: len(rest)}
	if len(rest) < recordHeaderLen+checksumLen {
		return r, "cut short"
	}
	length := binary.LittleEndian.Uint32(rest)
	headers := length&headersBit != 0
	length &^= headersBit
	sequence := binary.LittleEndian.Uint64(rest[4:])
	subject := int(binary.LittleEndian.Uint16(rest[20:]))
	prefix := recordHeaderLen + subject // bytes before the content
	if headers {
		prefix += 4 // the headers' length, which the checksum does not cover
	}
	if uint64(length) > uint64(len(rest)) || int(length) < prefix+checksumLen {
		return r, "wrong length"
	}
	r.length = int(length)
	r.sequence = sequence &^ (erasedBit | deletionBit)
	r.timestamp = int64(binary.LittleEndian.Uint64(rest[12:]))
	r.erased, r.deletion = sequence&erasedBit != 0, sequence&deletionBit != 0
	r.subject = rest[recordHeaderLen : recordHeaderLen+subject]

	content := rest[prefix : r.length-checksumLen]
	digest.Reset()
	digest.Write(rest[4:20])
	digest.Write(r.subject)
	digest.Write(content)
	if sum := rest[r.length-checksumLen : r.length]; !bytes.Equal(digest.Sum(nil), sum) {
		return r, "wrong checksum"
	}
	return r, ""
}
