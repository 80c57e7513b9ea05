package publish

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/schema"
)

// Group commit: messages that wait at the same time are stored by one commit.
//
//	Publish ── admit ─┬─ join      shares the outcome of a caller with the same id
//	                  ├─ solo      published by its caller, beside everything else
//	                  ├─ resend    the same, after a look into the duplicate window
//	                  ├─ lead      published by its caller, which holds the slot meanwhile
//	                  └─ enqueue   waits in the queue ── run ── commit ── finish
//
// One goroutine, run, takes the queue whenever it gets the slot, which whoever
// commits holds. So a batch is what arrived while the last commit ran and while
// the broker prepares this one: no message waits for company by a clock.
//
// An entry's message is read and changed only by the goroutine that publishes
// it: its caller, or the commit that took it from the queue. Everything else
// that goroutines share is guarded by committer.mu, which is never held across
// a network round trip. finish is the only way to an outcome; the first one
// counts.

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
	batching bool // otherwise every message is published by its caller

	wake chan struct{} // capacity 1; signalled when the queue becomes non-empty
	slot chan struct{} // capacity 1; holds a token while nothing is being committed

	mu         sync.Mutex
	inFlight   map[string]*entry // by message id; guarded by mu
	queue      []*entry          // in order of arrival; guarded by mu
	recent     recent            // ids that were sent lately; guarded by mu
	lastCommit int               // messages in the last commit, which predicts the next; guarded by mu
}

// An entry is a message on its way into the stream. All callers of Publish
// with the same id share it.
type entry struct {
	id  string
	ctx context.Context // of the first caller, with its deadline
	msg *nats.Msg       // of the goroutine that publishes it

	done    chan struct{}  // closed by finish
	receipt schema.Receipt // valid once done is closed
	err     error          // valid once done is closed
}

// newCommitter returns a committer. If it is batching, run must be started.
func newCommitter(p *Publisher, kind schema.Kind, batching bool) *committer {
	c := &committer{
		p:        p,
		kind:     kind,
		batching: batching,
		wake:     make(chan struct{}, 1),
		slot:     make(chan struct{}, 1),
		inFlight: make(map[string]*entry),
	}
	c.slot <- struct{}{}
	return c
}

// publish stores msg and returns its receipt, or waits for the caller that is
// already storing a message with the same id. It ends with ctx.
func (c *committer) publish(ctx context.Context, id string, msg *nats.Msg) (schema.Receipt, error) {
	e := &entry{id: id, ctx: ctx, msg: msg, done: make(chan struct{})}
	admission, first := c.admit(e)
	switch admission {
	case overloaded:
		return schema.Receipt{}, errOverloaded
	case join:
		select {
		case <-first.done:
			receipt := first.receipt
			receipt.Duplicate = true
			return receipt, first.err
		case <-ctx.Done():
			return schema.Receipt{}, ctx.Err()
		}
	case solo:
		c.publishAlone(e)
	case resend:
		if !c.resolveFromDedupeWindow(e) {
			c.publishAlone(e)
		}
	case lead:
		c.publishAlone(e)
		c.slot <- struct{}{}
	case enqueue:
		select {
		case <-e.done:
		case <-ctx.Done():
			c.finish(e, schema.Receipt{}, ctx.Err())
		}
	}
	return e.receipt, e.err
}

// admission is how a message is stored; see the drawing above.
type admission int

const (
	join admission = iota
	solo
	resend
	lead
	enqueue
	overloaded // not at all: the queue is full
)

// admit decides how e is stored. For join it returns the entry to wait for.
func (c *committer) admit(e *entry) (admission, *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.inFlight[e.id]; ok {
		return join, first
	}
	how := enqueue
	switch {
	case c.recent.has(e.id): // the broker rejects a batch that holds a duplicate
		how = resend
	case !c.batching || len(e.msg.Data) > soloThreshold:
		how = solo
	case len(c.queue) >= maxQueueLen:
		return overloaded, nil
	case c.lastCommit < minBatchLen && c.takeSlot(): // a batch would not pay
		how = lead
	}
	c.inFlight[e.id] = e
	if how == enqueue {
		c.queue = append(c.queue, e)
		c.p.metrics.waiting.Add(1)
		c.signal()
	}
	return how, nil
}

// finish gives all callers of e their outcome, unless they have one.
func (c *committer) finish(e *entry, receipt schema.Receipt, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.isDone() {
		return
	}
	e.receipt, e.err = receipt, err
	delete(c.inFlight, e.id)
	close(e.done)
}

func (e *entry) isDone() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// run commits what is in the queue until ctx ends.
func (c *committer) run(ctx context.Context) {
	stalled := time.NewTimer(commitStallTimeout)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		stalled.Reset(commitStallTimeout)
		held := true
		select {
		case <-c.slot:
		case <-stalled.C: // the commit that holds the slot returns it later
			held = false
		}
		go func() {
			c.commit(c.take(maxBatchLen))
			if held {
				c.slot <- struct{}{}
			}
		}()
	}
}

// signal makes run look at the queue.
func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // it is going to
	}
}

// takeSlot takes the slot if nothing is being committed.
func (c *committer) takeSlot() bool {
	select {
	case <-c.slot:
		return true
	default:
		return false
	}
}

// take removes up to n entries from the queue. If some stay, run is signalled.
func (c *committer) take(n int) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, len(c.queue))
	entries := slices.Clone(c.queue[:n])
	c.queue = slices.Delete(c.queue, 0, n)
	c.p.metrics.waiting.Add(int64(-n))
	if len(c.queue) > 0 {
		c.signal()
	}
	return entries
}

// commit stores entries: in a batch if enough wait or, going by the last
// commit, will arrive while the broker prepares it; otherwise one by one.
func (c *committer) commit(entries []*entry) {
	if len(entries) == 0 { // the last batch took them while it was prepared
		return
	}
	c.mu.Lock()
	batch := max(len(entries), c.lastCommit) >= minBatchLen
	c.lastCommit = len(entries)
	c.mu.Unlock()
	if batch {
		c.commitBatch(entries)
	} else {
		c.publishEach(entries)
	}
}

// publishEach publishes entries concurrently, each by itself.
func (c *committer) publishEach(entries []*entry) {
	var wg sync.WaitGroup
	for _, e := range entries {
		wg.Go(func() { c.publishAlone(e) })
	}
	wg.Wait()
}

// publishAlone publishes one message by itself and gives its callers the
// outcome. It returns when e.ctx ends at the latest.
func (c *committer) publishAlone(e *entry) {
	if e.isDone() {
		return
	}
	c.remember(e)
	receipt, err := c.p.publishAlone(e.ctx, c.kind, e.msg)
	if err == nil && !receipt.Duplicate {
		c.p.metrics.commits.Observe(1)
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

// committed notes the size of a batch that is stored.
func (c *committer) committed(size int) {
	c.p.metrics.commits.Observe(float64(size))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastCommit = size
}
