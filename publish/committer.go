package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// Group commit: messages that wait at the same time are stored by one commit.
//
// An entry is a message on its way into the stream, until its first outcome. It is
//
//	joined  if another caller is publishing the same id: it waits for that outcome,
//	        and returns a receipt as that of a duplicate
//	alone   published by its caller: a large message, the only one in flight, or one
//	        whose id was sent before, if the duplicate window does not know it
//	queued  for run, which starts one commit after the other
//
// A commit stores what has arrived while the last one ran and while the broker
// prepares this one. There is no timer that a message waits for.
//
// The message of an entry belongs to the goroutine that publishes it: its caller, or
// the commit that took it from the queue. committer.mu guards what else they share.
// It is the only lock, and is never held across a network round trip.

const (
	// maxQueueLen bounds the messages that wait for a commit: about a second's
	// work. Beyond it, a sender is better off with an immediate 503.
	maxQueueLen = 8192
	// commitStallTimeout is how long a commit may run before the next one starts
	// beside it, so that a reply that never arrives does not hold up the queue.
	commitStallTimeout = time.Second
	// soloThreshold is the size in bytes above which a message is not batched. A
	// batch writes its messages twice, which costs a large message more than an
	// fsync of its own.
	soloThreshold = 64 << 10
)

// A committer stores the messages of one stream.
type committer struct {
	p        *Publisher
	kind     schema.Kind
	batching bool        // otherwise all are published alone; set before the first publish
	ordered  bool        // for Store: a message is stored only after those before it, and the receipt of a duplicate states whether it was erased
	queue    chan *entry // in order of arrival; read by run and by the commit that runs

	lastCommit atomic.Int64 // messages in the last commit, which predicts the next

	mu       sync.Mutex
	inFlight map[string]*entry // without an outcome, by message id; guarded by mu
	recent   recent            // ids that were sent lately; guarded by mu
}

type entry struct {
	id  string
	ctx context.Context // of the first caller, with its deadline
	msg *nats.Msg

	done    chan struct{}  // closed by finish
	receipt schema.Receipt // valid once done is closed
	err     error          // valid once done is closed
}

func newCommitter(p *Publisher, kind schema.Kind) *committer {
	return &committer{p: p, kind: kind, queue: make(chan *entry, maxQueueLen), inFlight: make(map[string]*entry)}
}

// publish stores msg and returns its receipt. It ends with ctx.
func (c *committer) publish(ctx context.Context, id string, msg *nats.Msg) (schema.Receipt, error) {
	e := &entry{id: id, ctx: ctx, msg: msg, done: make(chan struct{})}
	c.mu.Lock()
	first, joined := c.inFlight[id]
	resent := c.recent.has(id)
	alone := !c.batching || len(msg.Data) > soloThreshold || len(c.inFlight) == 0 && c.lastCommit.Load() < minBatchLen
	if !joined {
		c.inFlight[id] = e
	}
	c.mu.Unlock()

	switch {
	case joined:
		select {
		case <-first.done:
			receipt := first.receipt
			receipt.Duplicate = true
			return receipt, first.err
		case <-ctx.Done():
			return schema.Receipt{}, ctx.Err()
		}
	case resent && c.resolveFromDedupeWindow(e):
	case resent, alone:
		c.publishAlone(e)
	default:
		select {
		case c.queue <- e:
		default:
			c.finish(e, schema.Receipt{}, errOverloaded)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			c.p.unanswered.Add(1)
			c.finish(e, schema.Receipt{}, ctx.Err())
		}
	}
	return e.receipt, e.err
}

// finish gives all callers of e their outcome. Only the first call has an effect.
func (c *committer) finish(e *entry, receipt schema.Receipt, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.isDone() {
		e.receipt, e.err = receipt, err
		delete(c.inFlight, e.id)
		close(e.done)
	}
}

func (e *entry) isDone() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// run starts one commit after the other until ctx ends.
func (c *committer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-c.queue:
			committed := make(chan struct{})
			go func() {
				defer close(committed)
				c.commit(append([]*entry{first}, c.take(maxBatchLen-1)...))
			}()
			select {
			case <-committed:
			case <-time.After(commitStallTimeout):
			case <-ctx.Done():
			}
		}
	}
}

// take removes up to n entries from the queue.
func (c *committer) take(n int) (entries []*entry) {
	for len(entries) < n {
		select {
		case e := <-c.queue:
			entries = append(entries, e)
		default:
			return entries
		}
	}
	return entries
}

// commit stores entries: in a batch if enough wait or, going by the last commit, will
// arrive while the broker prepares it; otherwise one by one.
func (c *committer) commit(entries []*entry) {
	size := int64(len(entries))
	if last := c.lastCommit.Swap(size); max(size, last) >= minBatchLen {
		c.commitBatch(entries)
	} else {
		c.publishEach(entries)
	}
}

// publishEach publishes entries concurrently, each by itself. Where order matters, it
// publishes one after the other, up to the first that fails.
func (c *committer) publishEach(entries []*entry) {
	if c.ordered {
		for _, e := range entries {
			if c.publishAlone(e); e.err != nil {
				return
			}
		}
		return
	}
	var wg sync.WaitGroup
	for _, e := range entries {
		wg.Go(func() { c.publishAlone(e) })
	}
	wg.Wait()
}

// publishAlone publishes one message by itself, and retries while another copy is in
// flight, or if the leader was replaced before it answered. It gives the callers of e
// their outcome when e.ctx ends at the latest.
func (c *committer) publishAlone(e *entry) {
	if e.isDone() {
		return
	}
	if c.ordered && len(e.msg.Data) > soloThreshold && c.resolveFromSubject(e) { // the answer may have been lost, or late
		return
	}
	c.remember(e)
	receipt, err := c.p.attempt(e.ctx, c.kind, e.msg)
	for wait := 5 * time.Millisecond; isInFlight(err) || errors.Is(err, errLeaderReplaced); wait *= 2 {
		if sleep(e.ctx, wait) != nil {
			err = fmt.Errorf("%w: the last attempt: %v", e.ctx.Err(), err)
			break
		}
		receipt, err = c.p.attempt(e.ctx, c.kind, e.msg)
	}
	switch {
	case err != nil:
	case !receipt.Duplicate:
		c.p.metrics.commits.Observe(1)
	case c.ordered && !receipt.Erased: // the broker may have recognized the id
		if found, err2 := c.p.lookUp(e.ctx, c.kind, e.msg.Subject); !errors.Is(err2, jetstream.ErrMsgNotFound) {
			receipt, err = found, err2
		}
	}
	c.finish(e, receipt, err)
}

// hasSettled reports whether every message that was sent has its outcome.
func (c *committer) hasSettled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inFlight) == 0
}

func (c *committer) stream() string { return c.kind.Stream(c.p.cfg.Stream) }
