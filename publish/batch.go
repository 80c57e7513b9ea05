package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/schema"
)

const (
	// maxBatchLen bounds a batch, in messages. Larger ones gain nothing.
	maxBatchLen = 256
	// minBatchLen is the break-even: a batch costs as much as so many singles.
	minBatchLen = 12
)

// A batch is an atomic batch of JetStream: its messages are stored all together or
// not at all. It is sent, then prepared, then committed: the broker answers the first
// message when it has prepared the batch, which costs its disk about as much as the
// rest, and the last one when the batch is committed. A batch that is abandoned leaves
// nothing in the stream: the broker forgets it after 10 seconds.
//
// A batch belongs to the goroutine of its commit, and so do the messages of its
// entries.
type batch struct {
	c       *committer
	id      string
	entries []*entry           // in the order in which they are sent
	answers *nats.Subscription // to the first message and to the last
}

// commitBatch stores entries in one batch, together with those that arrive while the
// broker prepares it, and finishes all of them.
func (c *committer) commitBatch(entries []*entry) {
	answers, err := c.p.nc.ChanSubscribe(c.p.nc.NewRespInbox(), make(chan *nats.Msg, 2))
	if err != nil {
		c.publishEach(entries)
		return
	}
	defer func() { _ = answers.Unsubscribe() }() // an error means that it has ended
	b := &batch{c: c, id: nuid.Next(), answers: answers}

	err = b.fill(entries)
	committing := err == nil && len(b.entries) > 0
	var last uint64
	if committing {
		last, err = b.commit()
	}
	switch size := len(b.entries); {
	case size == 0: // all callers have gone
	case err == nil:
		c.p.metrics.commits.Observe(float64(size))
		c.lastCommit.Store(int64(size))
		first := last - uint64(size) + 1 // the sequences of a batch are contiguous
		for i, e := range b.entries {
			c.finish(e, schema.Receipt{Stream: c.stream(), Sequence: first + uint64(i)}, nil)
		}
	case committing && !isRejection(err): // it may be stored, even in part
		c.p.unanswered.Add(1)
		for _, e := range b.entries {
			c.finish(e, schema.Receipt{}, err)
		}
	default:
		// Nothing is stored, and one message may be the cause; the broker does not name
		// it. Publishing the messages again stores none of them twice.
		rest := c.resolveDuplicates(b.entries, err)
		if len(rest) < size && len(rest) >= minBatchLen {
			c.commitBatch(rest)
		} else {
			c.publishEach(rest)
		}
	}
}

// fill sends entries and, once the broker has prepared the batch, those that have
// arrived meanwhile.
func (b *batch) fill(entries []*entry) error {
	if err := b.send(entries); err != nil || len(b.entries) == 0 {
		return err
	}
	if _, err := b.answer(b.entries[0].ctx); err != nil {
		return err
	}
	return b.send(b.c.take(maxBatchLen - len(b.entries)))
}

// send adds entries to the batch, except those whose callers have gone. After an error
// the remaining ones are in b.entries too, but were not sent.
func (b *batch) send(entries []*entry) (err error) {
	for _, e := range entries {
		if e.isDone() {
			continue
		}
		if b.entries = append(b.entries, e); err != nil {
			continue
		}
		b.c.remember(e)
		b.number(e.msg.Header, len(b.entries))
		if len(b.entries) == 1 {
			e.msg.Reply = b.answers.Subject
		}
		err = b.c.p.nc.PublishMsg(e.msg)
		// It may yet be published by itself.
		e.msg.Reply = ""
		e.msg.Header.Del(jetstreamext.BatchIDHeader)
		e.msg.Header.Del(jetstreamext.BatchSeqHeader)
	}
	return err
}

// commit ends the batch with a message that is not stored. It returns the sequence of
// the last one that is.
func (b *batch) commit() (last uint64, err error) {
	size, youngest := len(b.entries), b.entries[len(b.entries)-1]
	end := &nats.Msg{Subject: youngest.msg.Subject, Reply: b.answers.Subject, Header: nats.Header{jetstreamext.BatchCommitHeader: {"eob"}}}
	b.number(end.Header, size+1)
	if err := b.c.p.nc.PublishMsg(end); err != nil {
		return 0, err
	}
	ack, err := b.answer(youngest.ctx)
	if err != nil {
		return 0, err
	}
	if err := b.c.p.checkAck(b.c.stream(), ack.Stream, ack.Domain); err != nil {
		return 0, fmt.Errorf("%w: %w", jetstreamext.ErrInvalidBatchAck, err)
	}
	if ack.BatchID != b.id || ack.BatchSize != uint64(size) {
		return 0, fmt.Errorf("%w: %d messages of %s, want %d of %s", jetstreamext.ErrInvalidBatchAck, ack.BatchSize, ack.BatchID, size, b.id)
	}
	return ack.Sequence, b.c.p.durable(false)
}

// number makes a message the nth of the batch.
func (b *batch) number(header nats.Header, n int) {
	header.Set(jetstreamext.BatchIDHeader, b.id)
	header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(n))
}

// answer waits for the next answer. For all but the last message it is empty.
func (b *batch) answer(ctx context.Context) (*jetstreamext.BatchAck, error) {
	var ack struct {
		jetstreamext.BatchAck
		Error *jetstream.APIError `json:"error"`
	}
	msg, err := b.answers.NextMsgWithContext(ctx)
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx) // entries of a later session do not know it
	}
	if err != nil || len(msg.Data) == 0 {
		return &ack.BatchAck, err
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return nil, fmt.Errorf("%w: %w", jetstreamext.ErrInvalidBatchAck, err)
	}
	if ack.Error != nil {
		return nil, ack.Error
	}
	return &ack.BatchAck, nil
}

// isRejection reports whether the broker has answered a batch with anything but its
// acknowledgement.
func isRejection(err error) bool {
	_, ok := errors.AsType[*jetstream.APIError](err)
	return ok || errors.Is(err, jetstreamext.ErrInvalidBatchAck)
}
