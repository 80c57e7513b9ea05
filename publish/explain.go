package publish

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// explainTimeout bounds a search for the tombstones of deleted messages;
	// explainWait is the time between a failed search and the next.
	explainTimeout, explainWait = 5 * time.Minute, time.Minute
	// recentChecks is how many checks of the marks an erasure may take from its
	// tombstone to the deletion of the copy. If it takes longer, all headers are read
	// to find the tombstone.
	recentChecks = 60
)

// explainDeletions searches for the tombstones of messages that were deleted from
// the event stream, and reports the messages that have none.
func (p *Publisher) explainDeletions(ctx context.Context) {
	m, name := p.marks, schema.KindEvent.Stream(p.cfg.Stream)
	m.mu.Lock()
	suspects := m.mark(name).Suspects
	m.mu.Unlock()
	if suspects.Len() == 0 || time.Now().Before(m.explainAt) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	rest, err := p.withoutTombstone(ctx, name, suspects)
	if err != nil {
		if m.explainAt = time.Now().Add(explainWait); ctx.Err() == nil {
			m.log.Warn("cannot determine whether deleted messages were erased; retrying later", "stream", name, "sequences", suspects.String(), "error", err, "wait", explainWait)
		}
		return
	}
	m.mu.Lock()
	m.mark(name).Suspects = schema.Sequences{}
	if rest.Len() > 0 {
		m.report(name, Removed, rest)
	}
	m.mu.Unlock()
	m.save()
}

// withoutTombstone returns the deleted sequences of the event stream that have no
// tombstone.
func (p *Publisher) withoutTombstone(ctx context.Context, name string, deleted schema.Sequences) (schema.Sequences, error) {
	stream, err := p.js.Stream(ctx, name)
	if err != nil {
		return deleted, err
	}
	rest := deleted
	search := func(from, to uint64) error {
		return readHeaders(ctx, stream, from, func(sequence uint64, header nats.Header) bool {
			rest = rest.Minus(schema.SequencesOf(ErasedCopies(header)))
			return sequence < to && rest.Len() > 0
		})
	}
	oldest := p.marks.recent[schema.KindEvent][0]
	err = search(oldest+1, stream.CachedInfo().State.LastSeq)
	if err == nil && rest.Len() > 0 && deleted.First() < oldest {
		err = search(deleted.First()+1, oldest)
	}
	return rest, err
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
		add(id[len(id)-2]) // followed by a nonce; see tryPutTombstone
	}
	return copies
}
