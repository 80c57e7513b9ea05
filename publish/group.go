package publish

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// maxWaiting bounds the messages that wait for a commit: about a second's
	// work. What waits longer is better told to come again.
	maxWaiting = 8192
	// maxBatch bounds a batch. Larger ones gain nothing, and the question that
	// settles a rejected one must fit into a message.
	maxBatch = 256
	// minBatch is the break-even: a batch costs as much as so many singles.
	minBatch = 12
	// patience is how long a commit may take before the next one begins beside
	// it: an answer that never comes must not hold up everybody.
	patience = time.Second
	// maxBatched is the size in bytes from which a message goes alone. A batch
	// writes its messages twice, which costs such a message more than its own
	// fsync.
	maxBatched = 64 << 10
)

// A group brings the messages of one stream into it, those that wait at the
// same time in one commit. No message waits for company by a clock: a batch is
// what came while the last commit ran and while the broker prepares this one.
type group struct {
	p        *Publisher
	kind     schema.Kind
	batching bool // else every message goes alone

	mu       sync.Mutex
	inFlight map[string]*entry // by message id
	waiting  []*entry          // for the next commit, in order of arrival
	running  bool              // something is being committed
	last     int               // how many messages the last commit had
	sent     recent            // what was written to the connection lately

	came chan struct{} // gets a word, if there is room, when something waits
}

// An entry is a message on its way, shared by all callers that have the same id.
//
// Its data belongs to the first of them. Whoever writes the message to the
// connection holds mu; finish takes it as well, so nobody reads the data once
// a caller has been answered.
type entry struct {
	id, subject string
	ctx         context.Context // of the first caller, with its deadline
	done        chan struct{}   // closed when the outcome is there

	mu      sync.Mutex
	msg     *nats.Msg // nil once there is an outcome
	receipt Receipt   // the outcome, once done is closed
	err     error     // or why there is none
}

func newGroup(p *Publisher, kind schema.Kind, batching bool) *group {
	return &group{p: p, kind: kind, batching: batching, inFlight: make(map[string]*entry), came: make(chan struct{}, 1)}
}

// publish brings msg into the stream, or waits for another caller that does so
// with the same id.
func (g *group) publish(ctx context.Context, id string, msg *nats.Msg) (Receipt, error) {
	e := &entry{id: id, ctx: ctx, subject: msg.Subject, msg: msg, done: make(chan struct{})}
	way, first := g.admit(e)
	switch way {
	case full:
		return Receipt{}, errOverloaded
	case shared:
		select {
		case <-first.done:
			receipt := first.receipt
			receipt.Duplicate = true
			return receipt, first.err
		case <-ctx.Done():
			return Receipt{}, ctx.Err()
		}
	case alone:
		g.publishAlone(e)
	case again:
		if !g.answerKnown(e) {
			g.publishAlone(e)
		}
	case leading:
		after := time.AfterFunc(patience, g.run)
		g.publishAlone(e)
		if after.Stop() && !g.idle() {
			go g.run()
		}
	case grouped:
		select {
		case <-e.done:
		case <-ctx.Done():
			g.finish(e, Receipt{}, ctx.Err())
		}
	}
	return e.receipt, e.err
}

// A way is how an entry gets its outcome.
type way int

const (
	shared  way = iota // from another caller with the same id
	alone              // its caller publishes it, whatever others do
	again              // the same, but it was written before and may be stored
	leading            // its caller publishes it, and others wait meanwhile
	grouped            // it waits for the next commit
	full               // too many do
)

// admit decides which way e goes. For shared it returns whose outcome it gets.
func (g *group) admit(e *entry) (way, *entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if first, ok := g.inFlight[e.id]; ok {
		return shared, first
	}
	if g.sent.has(e.id) { // a batch with it would be rejected
		g.inFlight[e.id] = e
		return again, nil
	}
	if !g.batching || len(e.msg.Data) > maxBatched {
		g.inFlight[e.id] = e
		return alone, nil
	}
	if len(g.waiting) >= maxWaiting {
		return full, nil
	}
	g.inFlight[e.id] = e
	if !g.running {
		g.running = true
		if g.last < minBatch {
			return leading, nil
		}
		go g.run() // as many as the last time are likely to come
	}
	g.waiting = append(g.waiting, e)
	g.p.metrics.waiting.Add(1)
	select {
	case g.came <- struct{}{}:
	default:
	}
	return grouped, nil
}

// finish answers all callers of e, unless that was done before.
func (g *group) finish(e *entry, receipt Receipt, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g.finishLocked(e, receipt, err)
}

// finishLocked must be called with e.mu held.
func (g *group) finishLocked(e *entry, receipt Receipt, err error) {
	if e.msg == nil {
		return
	}
	e.msg, e.receipt, e.err = nil, receipt, err
	g.mu.Lock()
	delete(g.inFlight, e.id)
	g.mu.Unlock()
	close(e.done)
}

// run commits until nothing waits.
func (g *group) run() {
	for !g.idle() {
		entries, batch := g.next()
		committed := make(chan struct{})
		go func() {
			defer close(committed)
			if batch {
				g.commit(entries)
			} else {
				g.publishEach(entries)
			}
		}()
		select {
		case <-committed:
		case <-time.After(patience):
		}
	}
}

// idle reports whether nothing waits, and run therefore ends.
func (g *group) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = len(g.waiting) > 0
	return !g.running
}

// hasSettled reports whether every message that was written has its outcome.
func (g *group) hasSettled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.inFlight) == 0
}

// next returns what is committed next, and whether in a batch: one pays if
// enough wait or, going by the last commit, will come while it is prepared.
func (g *group) next() (entries []*entry, batch bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	entries = g.takeLocked(maxBatch)
	batch = max(len(entries), g.last) >= minBatch
	g.last = len(entries)
	return entries, batch
}

// take returns the first entries that wait, n at most.
func (g *group) take(n int) []*entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.takeLocked(n)
}

// takeLocked must be called with g.mu held.
func (g *group) takeLocked(n int) []*entry {
	n = min(n, len(g.waiting))
	entries := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.p.metrics.waiting.Add(int64(-n))
	return entries
}

// committed takes note of a batch that is stored.
func (g *group) committed(size int) {
	g.p.metrics.commits.Observe(float64(size))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = size
}

// publishEach publishes entries at the same time, but each by itself.
func (g *group) publishEach(entries []*entry) {
	var wg sync.WaitGroup
	for _, e := range entries {
		wg.Go(func() { g.publishAlone(e) })
	}
	wg.Wait()
}

// answerKnown asks for e by its id alone, and answers it if the stream's
// duplicate window knows it. That costs the broker a look into a map; to refuse
// a second copy by its subject, it reads a block of up to 8 MiB.
//
// The question is a message without data that no stream takes, whatever its
// configuration: there is no such rollup. The broker says so only after it has
// looked for a duplicate, and before it hands the message to a cluster.
func (g *group) answerKnown(e *entry) bool {
	question := &nats.Msg{Subject: e.subject, Header: nats.Header{
		jetstream.MsgIDHeader: {e.id},
		jetstream.MsgRollup:   {"none"},
	}}
	ctx, cancel := context.WithTimeout(e.ctx, patience) // time is left without an answer
	defer cancel()
	ack, err := g.p.js.PublishMsg(ctx, question)
	if err != nil || !ack.Duplicate || g.p.checkAck(g.stream(), ack.Stream, ack.Domain) != nil {
		return false
	}
	g.finish(e, Receipt{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: true}, nil)
	return true
}

// publishAlone publishes one message by itself. It ends with e.ctx, and keeps
// the caller waiting until then.
func (g *group) publishAlone(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.msg == nil {
		return
	}
	g.remember(e)
	receipt, err := g.p.publishAlone(e.ctx, g.kind, e.msg)
	if err == nil && !receipt.Duplicate {
		g.p.metrics.commits.Observe(1)
	}
	g.finishLocked(e, receipt, err)
}

// remember keeps resends of entries out of batches.
func (g *group) remember(entries ...*entry) {
	if !g.batching {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range entries {
		g.sent.add(e.id)
	}
}

func (g *group) stream() string { return g.kind.Stream(g.p.cfg.Stream) }
