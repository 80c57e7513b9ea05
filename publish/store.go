package publish

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// MaxStoreLen bounds the messages of a Store.
	MaxStoreLen = maxBatchLen
	// minStoredBatch is the number of messages from which on Store uses a batch, whose two
	// round trips are worth it sooner than an fsync.
	minStoredBatch = 3
	// uploadThreshold is how many bytes of data a slow connection takes so long for that
	// answers wait.
	uploadThreshold = 16 << 10
)

// Store stores messages of one kind that another stream has, 1 to [MaxStoreLen], each once
// and in their order: a message is stored only after all before it. It returns the
// receipts of the first messages, and an error unless that is all of them; storing the
// same messages again is safe. The receipt of a duplicate states whether its subject has a
// tombstone. Store ends with ctx.
//
// The messages are committed in one atomic batch if the stream allows that. A large
// message is not sent if the stream has it. While much is sent, Ready does not report that
// the broker does not answer: on a slow connection, answers wait.
func (p *Publisher) Store(ctx context.Context, messages []schema.Message) ([]schema.Receipt, error) {
	kind := messages[0].Kind
	if err := p.rejected(); err != nil {
		return nil, err
	}
	session := p.session.Load().ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(context.Cause(session)) })()
	size := 0
	for _, m := range messages {
		size += len(m.Data)
	}
	if size > uploadThreshold {
		p.uploads.Add(1)
		defer p.uploads.Add(-1)
	}

	var receipts []schema.Receipt
	if kind == schema.KindDead {
		for _, m := range messages {
			receipt, err := p.storeDead(ctx, m)
			if err != nil {
				return receipts, p.failed(ctx, err)
			}
			receipts = append(receipts, receipt)
		}
		return receipts, nil
	}

	c := newCommitter(p, kind)
	c.ordered = true
	entries := make([]*entry, len(messages))
	for i, m := range messages {
		entries[i] = &entry{id: m.ID, ctx: ctx, msg: p.message(context.Background(), m), done: make(chan struct{})}
	}
	if len(entries) >= minStoredBatch && p.streams[kind].CachedInfo().Config.AllowAtomicPublish {
		c.commitBatch(entries)
	} else {
		c.publishEach(entries)
	}
	for _, e := range entries {
		if !e.isDone() { // not sent, because one before it has failed
			return receipts, p.failed(ctx, errNotSent)
		}
		if e.err != nil {
			return receipts, p.failed(ctx, e.err)
		}
		receipts = append(receipts, e.receipt)
	}
	p.lastFailure.Store(nil)
	return receipts, nil
}

var errNotSent = errors.New("not sent: a message before it was not stored")

// storeDead stores a dead letter, of which a subject may have several: that of an event,
// that of its tombstone, and those of other streams' consumers of the same name.
func (p *Publisher) storeDead(ctx context.Context, m schema.Message) (schema.Receipt, error) {
	name := m.Kind.Stream(p.cfg.Stream)
	stream, err := OpenStream(ctx, p.js, name)
	if err != nil {
		return schema.Receipt{}, err
	}
	msg := p.message(context.Background(), m)
	msg.Header.Set(schema.HeaderDeadForwarded, "true")
	for {
		last := uint64(0)
		for stored, err := range onSubject(ctx, stream, msg.Subject) {
			switch {
			case err != nil:
				return schema.Receipt{}, err
			case stored.Header.Get(schema.HeaderDeadSequence) == msg.Header.Get(schema.HeaderDeadSequence),
				schema.IsSettled(stored.Header) && !schema.IsTombstone(m.Header): // that is a letter about an erasure, which is to be seen
				return schema.Receipt{Stream: name, Sequence: stored.Sequence, Duplicate: true, Erased: schema.IsSettled(stored.Header)}, nil
			}
			last = stored.Sequence
		}
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last, 10))
		ack, err := p.js.PublishMsg(ctx, msg)
		if isInFlight(err) { // another letter was stored in between
			if err := sleep(ctx, tombstoneWait); err != nil {
				return schema.Receipt{}, err
			}
			continue
		}
		if err == nil {
			err = p.checkAck(name, ack.Stream, ack.Domain)
		}
		if err != nil {
			return schema.Receipt{}, fmt.Errorf("storing a dead letter: %w", err)
		}
		return schema.Receipt{Stream: name, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
	}
}

// onSubject yields the messages that a stream has on a subject, which may have
// wildcards.
func onSubject(ctx context.Context, stream jetstream.Stream, subject string) func(func(*jetstream.RawStreamMsg, error) bool) {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		for next := uint64(1); ; {
			msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if !yield(msg, err) || err != nil {
				return
			}
			next = msg.Sequence + 1
		}
	}
}
