package publish

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// explainRecent is how long an erasure may take from its tombstone to the deletion of
// the copy. If it takes longer, all later headers are read to find the tombstone.
const explainRecent = time.Minute

// explainDeletions searches for the tombstones of messages that were deleted from
// the event stream, and reports the messages that have none.
func (p *Publisher) explainDeletions(ctx context.Context) error {
	m, name := p.marks, schema.KindEvent.Stream(p.cfg.Stream)
	suspects := m.get(name).Suspects
	if suspects.Len() == 0 {
		return nil
	}
	stream, err := p.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	info, rest := stream.CachedInfo(), suspects
	for _, start := range [...]jetstream.ConsumerConfig{startAtTime(brokerTime(info).Add(-explainRecent)), startAt(suspects.First() + 1)} {
		err := readHeaders(ctx, stream, start, func(sequence uint64, header nats.Header) bool {
			rest = rest.Minus(schema.SequencesOf(ErasedCopies(header)))
			return sequence < info.State.LastSeq && rest.Len() > 0
		})
		if err != nil {
			return fmt.Errorf("sequences %v: %w", suspects, err)
		}
		if rest.Len() == 0 {
			break
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.mark(name)
	rest = rest.Minus(rest.Minus(of.Suspects)) // the stream may have lost the others meanwhile
	if of.Suspects = of.Suspects.Minus(suspects); rest.Len() > 0 {
		m.report(name, Removed, rest)
	}
	return nil
}

// ErasedCopies returns the sequences of the copies that a tombstone replaces, given
// its stored header: the expected last sequence of its subject, and the sequence in
// its message ID. It returns nil for a message that is not a tombstone.
func ErasedCopies(header nats.Header) (copies []uint64) {
	if !schema.IsTombstone(header) {
		return nil
	}
	add := func(text string) bool {
		sequence, err := strconv.ParseUint(text, 10, 64)
		if err == nil {
			copies = append(copies, sequence)
		}
		return err == nil
	}
	add(header.Get(jetstream.ExpectedLastSubjSeqHeader))
	id := strings.Split(header.Get(jetstream.MsgIDHeader), ":") // see schema.Tombstone
	if !add(id[len(id)-1]) && len(id) > 1 {
		add(id[len(id)-2]) // followed by a nonce; see putTombstone
	}
	return copies
}
