package subscribe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A dispatcher fetches as many messages as there are free worker slots and
// handles each in a goroutine of its own. It prefetches nothing: a message that
// waits in a buffer is withheld from other processes, and redelivered when it
// waits for longer than AckWait.
type dispatcher struct {
	cfg     Consumer
	source  Source
	stream  jetstream.Stream   // of the events
	durable jetstream.Consumer // at the broker

	slots   chan struct{} // one token for each free worker slot
	running sync.WaitGroup
	// exclusive is held for writing while a suspect is handled, and for reading
	// while any other event is; see suspects.go.
	exclusive sync.RWMutex

	// Used by the fetching goroutine only:
	empty    bool   // whether the last batch was
	reported string // see report

	mu sync.Mutex
	// Guarded by mu:
	taken     map[uint64]bool    // sequences of the messages in flight
	histories map[uint64]history // of events that were not handled successfully yet, by sequence
}

func (s Source) dispatcher(ctx context.Context, c Consumer) (*dispatcher, error) {
	d := &dispatcher{
		cfg:    c,
		source: s,
		slots:  make(chan struct{}, c.Concurrency),
		taken:  make(map[uint64]bool),
	}
	for range c.Concurrency {
		d.slots <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var err error
	if d.stream, err = s.open(ctx, schema.KindEvent); err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.stream(schema.KindEvent), err)
	}
	if err := s.ensureDeadLetters(ctx, d.stream.CachedInfo().Config); err != nil {
		return nil, err
	}
	if d.durable, err = s.durable(ctx, d.stream.CachedInfo(), c); err != nil {
		return nil, err
	}
	d.histories = readRecords(d.durable.CachedInfo()).histories()
	return d, nil
}

// run handles events until fetchCtx ends, or fetching fails permanently.
func (d *dispatcher) run(fetchCtx context.Context) error {
	// Handlers that run when fetchCtx ends have until the end of Grace.
	handlerCtx, abandon := context.WithCancel(context.WithoutCancel(fetchCtx))
	defer abandon()

	var err error
	for fetchCtx.Err() == nil && err == nil {
		err = d.fetch(fetchCtx, handlerCtx)
	}
	finished := make(chan struct{})
	go func() {
		d.running.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-time.After(d.cfg.Grace):
		abandon()
		<-finished
		err = errors.Join(err, fmt.Errorf("handlers did not return within %v; their events are redelivered", d.cfg.Grace))
	}
	d.saveHistories(context.WithoutCancel(fetchCtx))
	return err
}

// fetch takes the free slots, at least one, fetches as many messages and starts
// to handle them. Its error ends the consumer.
func (d *dispatcher) fetch(ctx, handlerCtx context.Context) error {
	limit := d.cfg.Concurrency
	if d.empty {
		limit = 1
	}
	n := d.takeSlots(ctx, limit)
	if n == 0 {
		return nil
	}
	batch, end, err := d.source.fetch(ctx, d.durable, n)
	if err == nil {
		d.empty = true
		for msg := range batch.Messages() {
			n--
			d.empty, d.reported = false, ""
			d.start(ctx, handlerCtx, msg)
		}
		end()
		err = batch.Error()
	}
	for range n {
		d.slots <- struct{}{}
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return d.awaitBroker(ctx, err)
}

// takeSlots waits for a free slot, and takes what is free up to the limit. It
// returns 0 if ctx has ended.
func (d *dispatcher) takeSlots(ctx context.Context, limit int) int {
	select {
	case <-ctx.Done():
		return 0
	case <-d.slots:
	}
	for n := 1; n < limit; n++ {
		select {
		case <-d.slots:
		default:
			return n
		}
	}
	return limit
}

// awaitBroker waits, after a request that failed, until the broker may answer the
// next one. It returns an error if no later request can succeed.
func (d *dispatcher) awaitBroker(ctx context.Context, failed error) error {
	d.source.awaitConnection(ctx, d.cfg)
	askCtx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := d.durable.Info(askCtx)
	nc := d.source.JetStream.Conn()
	switch {
	case ctx.Err() != nil:
		return nil
	case isClosed(failed), isClosed(err):
		return nats.ErrConnectionClosed
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("was deleted, or its stream: %w", err)
	case err == nil && errors.Is(failed, context.Canceled): // the connection was lost, and is restored
		return nil
	case err == nil && errors.Is(failed, jetstream.ErrNoHeartbeat):
		d.report(slog.LevelWarn, "neither an event nor a heartbeat has arrived, although the broker answers; retrying: the connection may be too slow for an event", failed)
		return nil
	case errors.Is(err, context.DeadlineExceeded) && flushes(ctx, nc):
		d.report(slog.LevelError, "JetStream does not answer, although the connection is up; retrying. If this continues, a permission is missing, or was missing for a while: "+
			"the broker has then removed the subscription to this client's inbox, and the client must reconnect (nats.Conn.ForceReconnect)", errors.Join(failed, err, nc.LastError()))
	default:
		d.report(slog.LevelWarn, "broker does not deliver; retrying", errors.Join(failed, err))
	}
	wait(ctx)
	return nil
}

// report logs why no events are delivered, once until the next delivery.
func (d *dispatcher) report(level slog.Level, message string, err error) {
	if d.reported != message {
		d.cfg.Logger.Log(context.Background(), level, message, "consumer", d.cfg.Durable, "error", err)
		d.reported = message
	}
}

// awaitConnection waits while the connection is lost.
func (s Source) awaitConnection(ctx context.Context, c Consumer) {
	nc := s.JetStream.Conn()
	back := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(back)
	if !nc.IsReconnecting() {
		return
	}
	c.Logger.Warn("connection to the broker is lost; waiting for it", "consumer", c.Durable)
	select {
	case <-ctx.Done():
	case <-back:
	}
}

// flushes reports whether the broker answers a ping, which needs no permission.
func flushes(ctx context.Context, nc *nats.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx) == nil
}

// start handles a message in a goroutine of its own, which then frees the slot.
func (d *dispatcher) start(ctx, handlerCtx context.Context, msg jetstream.Msg) {
	m, err := newMessage(msg)
	if err != nil { // cannot happen: JetStream has delivered the message
		d.cfg.Logger.Error("message without metadata", "consumer", d.cfg.Durable, "error", err)
	}
	if err != nil || !d.take(m.Sequence) { // redelivered while it is in flight: the broker was away
		d.slots <- struct{}{}
		return
	}
	d.running.Go(func() {
		defer func() { d.slots <- struct{}{} }()
		defer d.release(m.Sequence)
		defer d.keepAlive(msg)()
		suspect := d.isSuspect(m)
		if suspect {
			d.exclusive.Lock()
			defer d.exclusive.Unlock()
		} else {
			d.exclusive.RLock()
			defer d.exclusive.RUnlock()
		}
		if ctx.Err() != nil {
			_ = msg.Nak() // not begun, so another process may have it immediately
			return
		}
		d.handle(handlerCtx, msg, m, suspect)
	})
}

// take notes that a message is in flight, and reports whether it was not before.
func (d *dispatcher) take(sequence uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.taken[sequence] {
		return false
	}
	d.taken[sequence] = true
	return true
}

func (d *dispatcher) release(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.taken, sequence)
}

// keepAlive reports progress on a message to the broker, until stop is called.
func (d *dispatcher) keepAlive(msg jetstream.Msg) (stop func()) {
	ticker := time.NewTicker(d.cfg.AckWait / 3)
	done := make(chan struct{})
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				_ = msg.InProgress() // fails if the broker is away; then the message is redelivered
			}
		}
	}()
	return func() { close(done) }
}
