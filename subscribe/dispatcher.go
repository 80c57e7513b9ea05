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
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"versive-ingress/schema"
)

// A dispatcher handles the messages of a durable consumer, in three steps:
//
//   - fetch requests as many messages as there is room for, and queues them.
//   - dispatch takes them from the queue in order, waits for a worker, or, for a suspect (see
//     suspects.go), for all of them, and calls handle in a goroutine.
//   - That goroutine then frees the worker, and waits until the broker confirms the
//     acknowledgement.
//
// The consumer has a second dispatcher for requeued dead letters (see requeue.go), which
// shares the workers. mu is held for no longer than a look at what it guards, and never
// while another lock is awaited.
//
// The goroutine that runs fetches and owns empty and reported; all others share the rest.
type dispatcher struct {
	cfg     Consumer
	source  Source
	kind    schema.Kind        // KindEvent, or KindDead for requests to requeue dead letters
	stream  jetstream.Stream   // of the events
	durable jetstream.Consumer // at the broker, of the messages of kind

	spanStart trace.SpanStartOption
	workers   *semaphore.Weighted // Concurrency of them; shared by the dispatchers of a consumer
	empty     bool                // whether the last batch was
	reported  string              // see report

	queue    chan *flight   // of the messages that wait for a worker
	handling sync.WaitGroup // of the messages in flight
	freed    chan struct{}  // capacity 1; signalled when there is room
	fetched  chan struct{}  // closed when fetching has ended

	mu       sync.Mutex         // guards what follows
	records  map[uint64]record  // of events that were not handled successfully yet, by sequence
	inFlight map[uint64]*flight // by sequence
	bytes    int                // of the messages in flight
	pending  int                // messages that the broker had yet to deliver, at the last delivery
	pace     time.Duration      // that handlers take, a moving average; 0 until one has returned

	mostAhead int // how many messages may be fetched ahead; see requestTook
}

// maxAhead bounds mostAhead. With more, Consume would not be faster.
const maxAhead = 256

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

		spanStart: spanStart(s.stream(kind), c.Durable),
		workers:   workers,
		queue:     make(chan *flight, c.Concurrency+maxAhead), // there is room for all in flight
		freed:     make(chan struct{}, 1),
		fetched:   make(chan struct{}),

		records:  readRecords(durable.CachedInfo()),
		inFlight: make(map[uint64]*flight),
	}
}

// run handles events until fetchCtx ends, or fetching fails permanently.
func (d *dispatcher) run(fetchCtx context.Context) error {
	background := context.WithoutCancel(fetchCtx)
	// Handlers that run when fetchCtx ends have until the end of Grace.
	handlerCtx, abandon := context.WithCancel(background)
	defer abandon()
	go d.keepAlive(handlerCtx)
	go d.dispatch(fetchCtx, handlerCtx)

	var err error
	for fetchCtx.Err() == nil && err == nil {
		err = d.fetch(fetchCtx, handlerCtx)
	}
	close(d.fetched)
	grace := time.AfterFunc(d.cfg.Grace, abandon)
	d.handling.Wait()
	close(d.queue)
	if !grace.Stop() {
		err = errors.Join(err, fmt.Errorf("handlers did not return within %v; their events are redelivered", d.cfg.Grace))
	}
	d.saveRecords(background)
	return err
}

// fetch waits until there is room, fetches as many messages and queues them. Its error
// ends the consumer.
func (d *dispatcher) fetch(ctx, handlerCtx context.Context) error {
	n := d.roomNow()
	for ; n == 0; n = d.roomNow() {
		select {
		case <-ctx.Done():
			return nil
		case <-d.freed:
		}
	}
	if d.empty {
		n = 1
	}
	d.empty = true
	begun := time.Now()
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if d.hasBacklog() { // what the broker has sent is still taken, to be given back
			time.Sleep(onTheWay)
		}
		cancel()
	})()
	// It waits for longer than the request lasts: its heartbeats show a stall.
	err := d.source.pull(request, d.durable, n, 2*jetstream.DefaultExpires, func(msg jetstream.Msg) bool {
		d.empty, d.reported = false, ""
		d.begin(handlerCtx, msg)
		return true
	})
	d.requestTook(time.Since(begun))
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return d.awaitBroker(ctx, err)
}

// onTheWay is how long messages that were requested may take to arrive when fetching ends.
// Those that take longer are redelivered after AckWait.
const onTheWay = 200 * time.Millisecond

func (d *dispatcher) hasBacklog() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending > 0
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

// soon is the time that messages which are fetched ahead may wait for a worker. It is short:
// a message that waits here is withheld from other processes.
func (d *dispatcher) soon() time.Duration { return d.cfg.AckWait / 100 }

// room returns how many messages to request: one for each free worker, and ahead, while
// the broker has a backlog, those that the handlers will begin with soon. mu is held.
func (d *dispatcher) room() int {
	ahead := 0
	if d.pace > 0 && d.bytes < fetchBytes {
		ahead = min(int(time.Duration(d.cfg.Concurrency)*d.soon()/d.pace), d.pending, d.mostAhead)
	}
	free := d.cfg.Concurrency + ahead - len(d.inFlight)
	if free <= ahead/4 { // few for a request
		return 0
	}
	return free
}

func (d *dispatcher) roomNow() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room()
}

// dispatch handles the queued messages, each in a goroutine of its own, until the queue
// is closed. When ctx has ended, it gives them back.
func (d *dispatcher) dispatch(ctx, handlerCtx context.Context) {
	for f := range d.queue {
		suspect, workers := d.isSuspect(f.m), int64(1)
		if suspect {
			workers = int64(d.cfg.Concurrency)
		}
		if d.workers.Acquire(ctx, workers) != nil {
			<-d.fetched     // otherwise this process would get it again
			_ = f.msg.Nak() // not begun, so another process may have it immediately
			d.end(f)
			continue
		}
		go func() {
			done := d.start(f) && d.handle(handlerCtx, f, suspect)
			d.workers.Release(workers)
			if done {
				d.confirm(ctx, f)
			}
			d.end(f)
		}()
	}
}

// keepAlive reports progress on the messages in flight to the broker until ctx ends.
func (d *dispatcher) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(d.cfg.AckWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			kept, returned := d.review()
			for _, f := range kept {
				_ = f.msg.InProgress() // fails if the broker is away; then the message is redelivered
			}
			for _, f := range returned {
				_ = f.msg.Nak()
			}
		}
	}
}

// requestTook doubles how many messages may be fetched ahead if they have arrived soon after
// the request, and halves it otherwise: on a slow connection they would be redelivered
// before they arrive.
func (d *dispatcher) requestTook(t time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t < d.soon() {
		d.mostAhead = min(2*d.mostAhead+1, maxAhead)
	} else {
		d.mostAhead /= 2
	}
}

// handlerTook notes how long a handler has taken.
func (d *dispatcher) handlerTook(t time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pace == 0 {
		d.pace = t
	}
	d.pace = max(d.pace+(t-d.pace)/8, 1)
}
