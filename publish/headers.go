package publish

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// headerBatch is how many headers are requested at a time.
	headerBatch = 1000
	// headerWait bounds the wait for a batch of headers. A broker that has none to
	// deliver confirms the request by heartbeats, twice in this time.
	headerWait = time.Second
)

// startAt and startAtTime determine where readHeaders begins.
func startAt(sequence uint64) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: sequence}
}

func startAtTime(t time.Time) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t}
}

// readHeaders calls each for the headers of a stream's messages, in order, from a
// start to the end of the stream or until each returns false. It skips messages
// that the stream counts but cannot return. If the start is a sequence, it returns an
// error if the consumer was on a replica that lags, and so has ended early.
func (p *Publisher) readHeaders(ctx context.Context, stream jetstream.Stream, start jetstream.ConsumerConfig, each func(sequence uint64, header nats.Header) bool) error {
	start.AckPolicy = jetstream.AckNonePolicy
	start.HeadersOnly, start.MemoryStorage, start.Replicas = true, true, 1
	start.InactiveThreshold = 10 * time.Second // in case deleting it fails
	consumer, err := stream.CreateConsumer(ctx, start)
	if err != nil {
		return fmt.Errorf("reading headers of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	}()

	size := uint64(headerBatch)
	if limit := consumer.CachedInfo().Config.MaxRequestBatch; limit > 0 { // the server's, which rejects more
		size = min(size, uint64(limit))
	}
	pending, next := consumer.CachedInfo().NumPending, start.OptStartSeq
	for delivered := uint64(0); pending > 0; {
		before := delivered
		batch, err := consumer.Fetch(int(min(pending, size)), jetstream.FetchMaxWait(headerWait), jetstream.FetchHeartbeat(headerWait/2))
		if err != nil {
			return err
		}
		wanted := true
		for msg := range batch.Messages() {
			metadata, err := msg.Metadata()
			if err != nil {
				return err
			}
			if delivered++; metadata.Sequence.Consumer != delivered {
				return errors.New("a header was lost in transit; it will be read again")
			}
			pending, next = metadata.NumPending, metadata.Sequence.Stream+1
			wanted = wanted && each(metadata.Sequence.Stream, msg.Headers())
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !wanted:
			return nil
		case delivered == before: // the pending messages are unreadable or were deleted
			pending = 0
		}
	}
	if last := stream.CachedInfo().State.LastSeq; start.OptStartSeq > 0 && next <= last {
		return p.requireNone(ctx, stream.CachedInfo().Config.Name, next, last)
	}
	return nil
}

// requireNone returns an error if the leader of a stream returns a message from next to last.
func (p *Publisher) requireNone(ctx context.Context, name string, next, last uint64) error {
	stream, err := OpenStream(ctx, p.js, name)
	if err != nil {
		return err
	}
	m, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err == nil && m.Sequence <= last:
		return fmt.Errorf("a replica of stream %s lags; it will be read again", name)
	}
	return err
}

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
	stream, err := OpenStream(ctx, p.js, name)
	if err != nil {
		return err
	}
	info, rest := stream.CachedInfo(), suspects
	for _, start := range [...]jetstream.ConsumerConfig{startAtTime(brokerTime(info).Add(-explainRecent)), startAt(suspects.First() + 1)} {
		err := p.readHeaders(ctx, stream, start, func(sequence uint64, header nats.Header) bool {
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
	mark := m.mark(name)
	rest = rest.Intersect(mark.Suspects) // the stream may have lost the others meanwhile
	if mark.Suspects = mark.Suspects.Minus(suspects); rest.Len() > 0 {
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
