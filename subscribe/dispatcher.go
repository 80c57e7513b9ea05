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
	"golang.org/x/sync/semaphore"

	"versive-ingress/schema"
)

// A dispatcher fetches as many messages as there are free worker slots and
// handles each in a goroutine of its own. It prefetches nothing: a message that
// waits in a buffer is withheld from other processes, and redelivered when it
// waits for longer than AckWait.
//
// A message takes a slot when it is requested, and has it until its handler has
// returned and it was acknowledged, dead-lettered or left to be redelivered. In
// between it waits for a worker, or, as a suspect (see suspects.go), for all of them.
// The consumer has a second dispatcher for requeued dead letters (see requeue.go), which
// has slots of its own and shares the workers. mu is held for no longer than a look at
// what it guards, and never while another lock is awaited.
//
// The goroutine that runs fetches and owns empty and reported; those of the
// handlers share all else.
type dispatcher struct {
	cfg     Consumer
	source  Source
	kind    schema.Kind        // KindEvent, or KindDead for requests to requeue dead letters
	stream  jetstream.Stream   // of the events
	durable jetstream.Consumer // at the broker, of the messages of kind

	slots    *semaphore.Weighted // Concurrency of them
	workers  *semaphore.Weighted // as many; shared by the dispatchers of a consumer
	empty    bool                // whether the last batch was
	reported string              // see report

	mu       sync.Mutex
	records  map[uint64]record  // of events that were not handled successfully yet, by sequence; guarded by mu
	inFlight map[uint64]*flight // by sequence; guarded by mu
}

func (s Source) dispatcher(ctx context.Context, c Consumer) (*dispatcher, error) {
	stream, err := s.open(ctx, schema.KindEvent)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.stream(schema.KindEvent), err)
	}
	if err := s.ensureDeadLetters(ctx, stream.CachedInfo().Config); err != nil {
		return nil, err
	}
	durable, err := s.durable(ctx, stream.CachedInfo(), c)
	if err != nil {
		return nil, err
	}
	return newDispatcher(c, s, schema.KindEvent, stream, durable, semaphore.NewWeighted(int64(c.Concurrency))), nil
}

func newDispatcher(c Consumer, s Source, kind schema.Kind, stream jetstream.Stream, durable jetstream.Consumer, workers *semaphore.Weighted) *dispatcher {
	return &dispatcher{
		cfg:     c,
		source:  s,
		kind:    kind,
		stream:  stream,
		durable: durable,
		slots:   semaphore.NewWeighted(int64(c.Concurrency)),
		workers: workers,
		records: readRecords(durable.CachedInfo()),

		inFlight: make(map[uint64]*flight),
	}
}

// run handles events until fetchCtx ends, or fetching fails permanently.
func (d *dispatcher) run(fetchCtx context.Context) error {
	background := context.WithoutCancel(fetchCtx)
	// Handlers that run when fetchCtx ends have until the end of Grace.
	handlerCtx, abandon := context.WithCancel(background)
	defer abandon()

	var err error
	for fetchCtx.Err() == nil && err == nil {
		err = d.fetch(fetchCtx, handlerCtx)
	}
	grace, cancel := context.WithTimeout(background, d.cfg.Grace)
	defer cancel()
	if all := int64(d.cfg.Concurrency); d.slots.Acquire(grace, all) != nil {
		abandon()
		_ = d.slots.Acquire(background, all)
		err = errors.Join(err, fmt.Errorf("handlers did not return within %v; their events are redelivered", d.cfg.Grace))
	}
	d.saveRecords(background)
	return err
}

// fetch takes the free slots, at least one, fetches as many messages and starts
// to handle them. Its error ends the consumer.
func (d *dispatcher) fetch(ctx, handlerCtx context.Context) error {
	if d.slots.Acquire(ctx, 1) != nil {
		return nil
	}
	n := 1
	for !d.empty && n < d.cfg.Concurrency && d.slots.TryAcquire(1) {
		n++
	}
	d.empty = true
	// It waits for longer than the request lasts: its heartbeats show a stall.
	err := d.source.pull(ctx, d.durable, n, 2*jetstream.DefaultExpires, func(msg jetstream.Msg) bool {
		n--
		d.empty, d.reported = false, ""
		d.start(ctx, handlerCtx, msg)
		return true
	})
	d.slots.Release(int64(n))
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return d.awaitBroker(ctx, err)
}

// awaitBroker waits, after a request that failed, until the broker may answer the
// next one. It returns an error if no later request can succeed.
func (d *dispatcher) awaitBroker(ctx context.Context, failed error) error {
	nc := d.source.JetStream.Conn()
	if nc.IsReconnecting() {
		d.report(slog.LevelWarn, "connection to the broker is lost; waiting for it", failed)
		wait(ctx)
		return nil
	}
	_, err := d.durable.Info(ctx)
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
	case errors.Is(err, context.DeadlineExceeded) && nc.FlushTimeout(5*time.Second) == nil: // a ping needs no permission
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

// start handles a message in a goroutine of its own, which then frees the slot.
func (d *dispatcher) start(ctx, handlerCtx context.Context, msg jetstream.Msg) {
	m := newMessage(msg)
	if m.Sequence == 0 || !d.begin(msg, m) {
		d.slots.Release(1)
		return
	}
	go func() {
		defer d.slots.Release(1)
		for msg := msg; msg != nil; msg = d.end(m.Sequence) {
			d.process(ctx, handlerCtx, msg)
		}
	}()
}

// process handles a message, unless ctx has ended.
func (d *dispatcher) process(ctx, handlerCtx context.Context, msg jetstream.Msg) {
	m := newMessage(msg)
	alive, done := context.WithCancel(handlerCtx)
	defer done()
	go d.keepAlive(alive, msg)
	suspect, workers := d.isSuspect(m), int64(1)
	if suspect {
		workers = int64(d.cfg.Concurrency)
	}
	err := d.workers.Acquire(ctx, workers)
	if err == nil {
		defer d.workers.Release(workers)
	}
	if err != nil || ctx.Err() != nil {
		_ = msg.Nak() // not begun, so another process may have it immediately
		return
	}
	d.handle(handlerCtx, msg, m, suspect)
}

// keepAlive reports progress on a message to the broker until ctx ends.
func (d *dispatcher) keepAlive(ctx context.Context, msg jetstream.Msg) {
	ticker := time.NewTicker(d.cfg.AckWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = msg.InProgress() // fails if the broker is away; then the message is redelivered
		}
	}
}
