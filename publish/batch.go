package publish

import (
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
	// maxBatchLen bounds a batch, in messages. Larger ones gain nothing, and the
	// request that resolves a rejected one must fit into a message.
	maxBatchLen = 256
	// minBatchLen is the break-even: a batch costs as much as so many singles.
	minBatchLen = 12
)

// A batch is an atomic batch of JetStream: its messages are stored all
// together or not at all. The broker answers the first message when it has
// prepared the batch, which costs its disk about as much as the rest, and the
// last one when the batch is committed. A batch that is abandoned leaves
// nothing in the stream: the broker forgets it after 10 seconds.
//
// A batch belongs to the goroutine that commits it.
type batch struct {
	c       *committer
	id      string
	entries []*entry // in the order in which they are sent

	inbox   string
	answers chan *nats.Msg // to the first message, and to the last
}

// commitBatch stores entries in one batch, together with those that arrive
// while the broker prepares it, and finishes all of them.
func (c *committer) commitBatch(entries []*entry) {
	b := &batch{c: c, id: nuid.Next(), inbox: c.p.nc.NewRespInbox(), answers: make(chan *nats.Msg, 2)}
	sub, err := c.p.nc.ChanSubscribe(b.inbox, b.answers)
	if err != nil {
		c.publishEach(entries)
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that it has ended

	err = b.fill(entries)
	size := len(b.entries)
	if size == 0 {
		return
	}
	filled := err == nil
	var last uint64
	if filled {
		last, err = b.commit()
	}
	switch {
	case err == nil:
		c.p.metrics.commits.Observe(float64(size))
		c.lastCommit.Store(int64(size))
		first := last - uint64(size) + 1 // the sequences of a batch are contiguous
		for i, e := range b.entries {
			c.finish(e, schema.Receipt{Stream: c.stream(), Sequence: first + uint64(i)}, nil)
		}
	case isRejection(err):
		// Nothing is stored, and the broker does not name the culprit. Publishing
		// the messages again stores none of them twice.
		rest := c.resolveDuplicates(b.entries, err)
		if len(rest) < size && len(rest) >= minBatchLen {
			c.commitBatch(rest)
		} else {
			c.publishEach(rest)
		}
	case !filled: // one message may be the cause; nothing is stored
		c.publishEach(b.entries)
	default: // it may be stored
		for _, e := range b.entries {
			c.finish(e, schema.Receipt{}, err)
		}
	}
}

// fill sends entries and, once the broker has prepared the batch, those that
// have arrived meanwhile.
func (b *batch) fill(entries []*entry) error {
	if err := b.send(entries); err != nil || len(b.entries) == 0 {
		return err
	}
	select {
	case answer := <-b.answers:
		if _, err := readAnswer(answer); err != nil {
			return err
		}
		return b.send(b.c.take(maxBatchLen - len(b.entries)))
	case <-b.entries[0].ctx.Done():
		return b.entries[0].ctx.Err()
	}
}

// send adds entries to the batch, except those whose callers have gone. After
// an error the remaining ones are in b.entries too, but were not sent.
func (b *batch) send(entries []*entry) (err error) {
	for _, e := range entries {
		if e.isDone() {
			continue
		}
		b.entries = append(b.entries, e)
		if err == nil {
			b.c.remember(e)
			err = b.sendOne(e.msg)
		}
	}
	return err
}

func (b *batch) sendOne(msg *nats.Msg) error {
	b.number(msg.Header, len(b.entries))
	if len(b.entries) == 1 {
		msg.Reply = b.inbox
	}
	err := b.c.p.nc.PublishMsg(msg)
	// It may yet be published by itself.
	msg.Reply = ""
	msg.Header.Del(jetstreamext.BatchIDHeader)
	msg.Header.Del(jetstreamext.BatchSeqHeader)
	return err
}

// commit ends the batch with a message that is not stored. It returns the
// sequence of the last one that is.
func (b *batch) commit() (last uint64, err error) {
	youngest := b.entries[len(b.entries)-1]
	header := nats.Header{jetstreamext.BatchCommitHeader: {"eob"}}
	b.number(header, len(b.entries)+1)
	if err := b.c.p.nc.PublishMsg(&nats.Msg{Subject: youngest.msg.Subject, Reply: b.inbox, Header: header}); err != nil {
		return 0, err
	}
	var ack *jetstreamext.BatchAck
	select {
	case answer := <-b.answers:
		ack, err = readAnswer(answer)
	case <-youngest.ctx.Done():
		err = youngest.ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	if err := b.c.p.checkAck(b.c.stream(), ack.Stream, ack.Domain); err != nil {
		return 0, fmt.Errorf("%w: %w", jetstreamext.ErrInvalidBatchAck, err)
	}
	if ack.BatchID != b.id || ack.BatchSize != uint64(len(b.entries)) {
		return 0, fmt.Errorf("%w: %d messages of %s, want %d of %s", jetstreamext.ErrInvalidBatchAck,
			ack.BatchSize, ack.BatchID, len(b.entries), b.id)
	}
	return ack.Sequence, nil
}

// number makes a message the nth of the batch.
func (b *batch) number(header nats.Header, n int) {
	header.Set(jetstreamext.BatchIDHeader, b.id)
	header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(n))
}

// readAnswer reads the broker's answer to a message of a batch. For all but
// the last message it is empty.
func readAnswer(answer *nats.Msg) (*jetstreamext.BatchAck, error) {
	var ack struct {
		jetstreamext.BatchAck
		Error *jetstream.APIError `json:"error"`
	}
	switch {
	case answer.Header.Get("Status") == noResponders:
		return nil, nats.ErrNoResponders
	case len(answer.Data) == 0:
		return &ack.BatchAck, nil
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return nil, fmt.Errorf("%w: %w", jetstreamext.ErrInvalidBatchAck, err)
	}
	if ack.Error != nil {
		return nil, ack.Error
	}
	return &ack.BatchAck, nil
}

// noResponders is the status that a broker answers with in place of a stream
// that is not there.
const noResponders = "503"

// isRejection reports whether the broker has answered a batch with anything
// but its acknowledgement.
func isRejection(err error) bool {
	_, ok := errors.AsType[*jetstream.APIError](err)
	return ok || errors.Is(err, jetstreamext.ErrInvalidBatchAck)
}
