package publish

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A backlog counts the messages of a stream that wait for an operator, which are
// those that are not settled (see [schema.IsSettled]), except for requests to requeue. It
// remembers which ones are settled, so that it reads each header once.
type backlog struct {
	count atomic.Int64 // -1 until all headers have been read

	// The goroutine that updates the backlog owns the following.
	created time.Time // of the stream
	read    uint64    // last sequence whose header was read
	settled schema.Sequences
	state   jetstream.StreamState // at the last update
}

// updateBacklog reads the headers of the messages that the stream of a kind has got
// since the last update.
func (p *Publisher) updateBacklog(ctx context.Context, kind schema.Kind) error {
	b, seen := &p.metrics.backlogs[kind], &p.metrics.streams[kind]
	stream, err := OpenStream(ctx, p.js, kind.Stream(p.cfg.Stream))
	if errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has dead-lettered anything yet
		b.count.Store(0)
		seen.Store(nil)
		return nil
	}
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	seen.Store(info)
	if !info.Created.Equal(b.created) {
		b.created, b.read, b.settled, b.state = info.Created, 0, schema.Sequences{}, jetstream.StreamState{}
	}
	if kind == schema.KindDead && (info.State.LastSeq != b.state.LastSeq || info.State.Msgs != b.state.Msgs) {
		if info, err = ReadState(ctx, stream, jetstream.WithDeletedDetails(true)); err != nil { // requests are deleted
			return err
		}
	}
	state := info.State
	if state.LastSeq > b.read {
		err := p.readHeaders(ctx, stream, startAt(b.read+1), func(sequence uint64, header nats.Header) bool {
			if b.read = sequence; schema.IsSettled(header) || schema.RequeuedLetter(header) > 0 {
				b.settled.Add(sequence, sequence)
			}
			return true
		})
		if err != nil {
			return err
		}
		b.read = max(b.read, state.LastSeq) // the missing ones were deleted
	}
	b.settled, b.state = b.settled.Within(state.FirstSeq, math.MaxUint64).Minus(schema.SequencesOf(state.Deleted)), state
	b.count.Store(max(0, int64(state.Msgs)-int64(b.settled.Within(0, state.LastSeq).Len())))
	if kind == schema.KindDead {
		return p.limitDeadLetters(ctx, info.Config)
	}
	return nil
}

// limitDeadLetters shortens the maximum age of dead letters, which contain whole
// interviews, to that of the events. It may be longer because the consumer that
// created the stream cannot update it, or because the events' age was set later. A
// stream that is forwarded must have none, as that of the events.
func (p *Publisher) limitDeadLetters(ctx context.Context, config jetstream.StreamConfig) error {
	before, limit := config.MaxAge, p.metrics.streams[schema.KindEvent].Load().Config.MaxAge
	if before == limit || !p.cfg.Forwarded && (limit == 0 || before > 0 && before <= limit) {
		return nil
	}
	if err := schema.KindDead.CheckOwner(p.cfg.Stream, config.Metadata); err != nil {
		return err
	}
	config.MaxAge, config.Duplicates = limit, window(config.Duplicates, limit)
	if _, err := p.js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("setting its maximum age (%s): %w", p.cfg.edit(config.Name, fmt.Sprintf("--max-age %s", limit)), err)
	}
	p.cfg.Logger.Warn("set the maximum age of dead letters to that of events", "stream", config.Name, "from", before.String(), "to", limit.String())
	return nil
}
