package publish

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/schema"
)

// Resends: the broker rejects a whole batch for one duplicate in it and does not name
// the offender. So an entry whose id was sent before stays out of batches, and after a
// rejection the broker is asked for each id.
//
// An id is in recent from its first transmission, whatever the outcome, until so many
// others were sent that it has been forgotten. Forgetting one costs a rejected batch.
// committer.mu guards recent; the goroutine that publishes an entry asks for its id.

// maxRecent is how many ids a generation of recent holds. Two of them cover
// the sender's first resend, 5 seconds after the first attempt, at any rate
// that one stream can take.
const maxRecent = 64 << 10

// recent is a bounded set of ids: the last maxRecent, and up to as many before
// them, of any age. It keeps hashes. An id that collides with another is
// treated as a resend, which is slower and has no other effect. The zero value
// is empty.
type recent struct {
	young, old map[uint64]struct{}
}

var seed = maphash.MakeSeed()

func (r *recent) add(id string) {
	if r.young == nil || len(r.young) >= maxRecent {
		r.young, r.old = make(map[uint64]struct{}), r.young
	}
	r.young[maphash.String(seed, id)] = struct{}{}
}

func (r *recent) has(id string) bool {
	hash := maphash.String(seed, id)
	_, young := r.young[hash]
	_, old := r.old[hash]
	return young || old
}

// remember keeps resends of e out of batches.
func (c *committer) remember(e *entry) {
	if !c.batching {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recent.add(e.id)
}

// resolveFromDedupeWindow asks the broker for e by its id alone and finishes e
// if the stream's duplicate window knows it. That costs the broker a look-up in
// a map; refusing a second copy by its subject costs reading a block of up to
// 8 MiB.
//
// The question is a message without data that every stream refuses, whatever
// its configuration, because of an invalid Nats-Rollup value. The broker
// refuses it only after it has looked for a duplicate, and before it hands the
// message to the other replicas.
func (c *committer) resolveFromDedupeWindow(e *entry) bool {
	question := &nats.Msg{Subject: e.msg.Subject, Header: nats.Header{
		jetstream.MsgIDHeader: {e.id},
		jetstream.MsgRollup:   {"none"},
	}}
	ctx, cancel := context.WithTimeout(e.ctx, commitStallTimeout) // leaves time to publish it
	defer cancel()
	ack, err := c.p.js.PublishMsg(ctx, question)
	if err != nil || !ack.Duplicate || c.p.checkAck(c.stream(), ack.Stream, ack.Domain) != nil {
		return false
	}
	c.finish(e, schema.Receipt{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: true}, c.p.durable(true))
	return true
}

// resolveFromSubject finishes e if the stream has a message on its subject.
func (c *committer) resolveFromSubject(e *entry) bool {
	receipt, err := c.p.lookUp(e.ctx, c.kind, e.msg.Subject)
	if err == nil {
		c.finish(e, receipt, c.p.durable(true))
	}
	return err == nil
}

// resolveDuplicates finishes those entries of a rejected batch that the stream has, and
// returns the others. The rejection shows where to ask for them: in the duplicate window,
// which costs the broker least, or on their subjects, which shows whether they were
// erased.
func (c *committer) resolveDuplicates(entries []*entry, rejection error) (rest []*entry) {
	var resolve func(*entry) bool
	api, _ := errors.AsType[*jetstream.APIError](rejection)
	switch {
	case api == nil:
		return entries
	case api.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID && !c.ordered:
		resolve = c.resolveFromDedupeWindow
	case api.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID, api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		resolve = c.resolveFromSubject
	default:
		return entries
	}
	var wg sync.WaitGroup
	for _, e := range entries {
		wg.Go(func() { resolve(e) })
	}
	wg.Wait()
	return slices.DeleteFunc(entries, (*entry).isDone)
}
