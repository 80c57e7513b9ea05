package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// commit stores entries in one atomic batch, together with those that come
// while the broker prepares it, and answers all of them.
func (g *group) commit(entries []*entry) {
	b := &batch{g: g, id: nuid.Next(), inbox: g.p.nc.NewRespInbox(), answers: make(chan *nats.Msg, 2)}
	sub, err := g.p.nc.ChanSubscribe(b.inbox, b.answers)
	if err != nil {
		g.publishEach(entries)
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
		g.committed(size)
		name := g.stream()
		first := last - uint64(size) + 1 // a batch is contiguous in the stream
		for i, e := range b.entries {
			g.finish(e, Receipt{Stream: name, Sequence: first + uint64(i)}, nil)
		}
	case isRejection(err):
		// It is not said whose fault that is. Each is published again, which stores
		// none twice.
		rest := g.answerStored(b.entries, err)
		if len(rest) < size && len(rest) >= minBatch {
			g.commit(rest)
		} else {
			g.publishEach(rest)
		}
	case !filled: // perhaps for the sake of a single one; nothing of it is stored
		g.publishEach(b.entries)
	default:
		for _, e := range b.entries {
			g.finish(e, Receipt{}, err)
		}
	}
}

// A batch is an atomic batch of JetStream. One that is abandoned half-way
// leaves nothing in the stream: the broker forgets it after 10 seconds.
type batch struct {
	g       *group
	id      string
	entries []*entry // in the order in which they are written

	inbox   string
	answers chan *nats.Msg // to the first message, and to the last
}

// fill writes entries, and those that come until the broker has prepared the
// batch, which takes its disk about as long as all the rest.
func (b *batch) fill(entries []*entry) error {
	came, late := b.g.came, time.After(patience)
	for {
		if err := b.write(entries); err != nil || len(b.entries) == 0 {
			return err
		}
		select {
		case <-came:
			entries = b.g.take(maxBatch - len(b.entries))
		case <-late:
			came, entries = nil, nil // what comes now goes beside it
		case answer := <-b.answers:
			if _, err := readAnswer(answer); err != nil {
				return err
			}
			return b.write(b.g.take(maxBatch - len(b.entries)))
		case <-b.entries[0].ctx.Done():
			return b.entries[0].ctx.Err()
		}
	}
}

// write adds entries to the batch, but for those whose time has run out.
func (b *batch) write(entries []*entry) (err error) {
	for _, e := range entries {
		if err == nil {
			err = b.writeOne(e)
		} else {
			b.entries = append(b.entries, e)
		}
	}
	return err
}

func (b *batch) writeOne(e *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.msg == nil {
		return nil
	}
	b.entries = append(b.entries, e)
	b.g.remember(e)

	b.number(e.msg.Header, len(b.entries))
	if len(b.entries) == 1 {
		e.msg.Reply = b.inbox
	}
	defer func() { // it may have to go alone yet
		e.msg.Reply = ""
		e.msg.Header.Del(jetstreamext.BatchIDHeader)
		e.msg.Header.Del(jetstreamext.BatchSeqHeader)
	}()
	return b.g.p.nc.PublishMsg(e.msg)
}

// commit ends the batch with a message that is not stored. It returns the
// sequence of the last one that is.
func (b *batch) commit() (last uint64, err error) {
	youngest := b.entries[len(b.entries)-1]
	header := nats.Header{jetstreamext.BatchCommitHeader: {"eob"}}
	b.number(header, len(b.entries)+1)
	if err := b.g.p.nc.PublishMsg(&nats.Msg{Subject: youngest.subject, Reply: b.inbox, Header: header}); err != nil {
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
	if err := b.g.p.checkAck(b.g.stream(), ack.Stream, ack.Domain); err != nil {
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

// readAnswer reads what the broker says to a message of a batch: an empty
// acknowledgement to all but the last.
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

// noResponders is the status by which a broker answers in place of a stream
// that is not there.
const noResponders = "503"

// isRejection reports whether the broker has answered a batch by something
// else than its acknowledgement.
func isRejection(err error) bool {
	_, ok := errors.AsType[*jetstream.APIError](err)
	return ok || errors.Is(err, jetstreamext.ErrInvalidBatchAck)
}

// answerStored answers those entries of a rejected batch that are stored
// already, and returns the others.
func (g *group) answerStored(entries []*entry, rejection error) (rest []*entry) {
	api, ok := errors.AsType[*jetstream.APIError](rejection)
	if !ok || api.ErrorCode != jetstreamext.JSErrCodeBatchPublishDuplicateMsgID && api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		return entries
	}
	subjects := make([]string, len(entries))
	for i, e := range entries {
		subjects[i] = e.subject
	}
	name, youngest := g.stream(), entries[len(entries)-1]
	ctx, cancel := context.WithTimeout(youngest.ctx, patience) // time is left without an answer
	defer cancel()
	messages, err := jetstreamext.GetLastMsgsFor(ctx, g.p.js, name, subjects)
	if err != nil {
		return entries
	}
	stored := make(map[string]uint64)
	for m, err := range messages {
		if err != nil { // none, or no more
			break
		}
		stored[m.Subject] = m.Sequence
	}
	for _, e := range entries {
		if sequence, ok := stored[e.subject]; ok {
			g.finish(e, Receipt{Stream: name, Sequence: sequence, Duplicate: true}, nil)
		} else {
			rest = append(rest, e)
		}
	}
	return rest
}
