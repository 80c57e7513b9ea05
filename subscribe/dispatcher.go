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

	reported string // see report; used by the fetching goroutine alone

	mu sync.Mutex
	// taken are the sequences of the messages that are not finished. Guarded by
	// mu.
	taken map[uint64]bool
	// histories are those of events that were not handled successfully yet, by
	// sequence. Guarded by mu.
	histories map[uint64]history
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

const (
	// heartbeat is how often the broker confirms that it still holds a request
	// for messages. It is half the time for which the client asks, by default,
	// and therefore the longest that there can be: the client ends a request
	// when neither a message nor a heartbeat has arrived whole for twice as
	// long, and on a slow connection heartbeats wait behind a large message.
	heartbeat = jetstream.DefaultExpires / 2
	// fetchBytes bounds one request. A broker drops a client for which it holds
	// more than 64 MiB; its largest message is 32 MiB.
	fetchBytes = 48 << 20
)

// run handles events until fetchCtx ends, or fetching fails for good.
func (d *dispatcher) run(fetchCtx context.Context) error {
	// Handlers may finish what they began.
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
		err = errors.Join(err, fmt.Errorf("handlers did not finish within %v; what they did not finish is delivered again", d.cfg.Grace))
	}
	d.saveHistories(context.WithoutCancel(fetchCtx))
	return err
}

// fetch takes all free slots, at least one, fetches as many messages and
// starts to handle them. Its error ends the consumer.
func (d *dispatcher) fetch(ctx, handlerCtx context.Context) error {
	n := d.takeSlots(ctx)
	if n == 0 {
		return nil
	}
	// The request lasts for its own time, not until a deadline of ctx, and ends
	// with the connection: a broker that was restarted has forgotten it.
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	nc := d.source.JetStream.Conn()
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(lost) // closes it
	go func() {
		<-lost
		cancel()
	}()

	batch, err := d.durable.Fetch(n, jetstream.FetchContext(request), jetstream.FetchHeartbeat(heartbeat), jetstream.FetchMaxBytes(fetchBytes))
	if err == nil {
		for msg := range batch.Messages() {
			n--
			d.reported = ""
			d.start(ctx, handlerCtx, msg)
		}
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

func (d *dispatcher) takeSlots(ctx context.Context) int {
	select {
	case <-ctx.Done():
		return 0
	case <-d.slots:
	}
	for n := 1; ; n++ {
		select {
		case <-d.slots:
		default:
			return n
		}
	}
}

// awaitBroker waits until the broker may answer the next request. It returns an
// error if waiting is of no use.
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
	case err == nil && errors.Is(failed, context.Canceled): // the connection was lost, and is back
		return nil
	case err == nil && errors.Is(failed, jetstream.ErrNoHeartbeat):
		d.report(slog.LevelWarn, "neither an event nor a heartbeat has arrived, although the broker answers; asking again: the connection may be too slow for an event", failed)
		return nil
	case errors.Is(err, context.DeadlineExceeded) && flushes(ctx, nc):
		d.report(slog.LevelError, "JetStream does not answer, although the connection is up; asking again. If that goes on, a permission is missing, or was for a while: "+
			"the broker then has ended the subscription to this client's inbox, and the client must reconnect (nats.Conn.ForceReconnect)", errors.Join(failed, err, nc.LastError()))
	default:
		d.report(slog.LevelWarn, "broker does not deliver; asking again", errors.Join(failed, err))
	}
	select {
	case <-ctx.Done():
	case <-time.After(retryWait):
	}
	return nil
}

// report logs what keeps events from being delivered, unless that was logged
// since the last delivery.
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

// start handles a message in a goroutine of its own, which frees the slot.
func (d *dispatcher) start(ctx, handlerCtx context.Context, msg jetstream.Msg) {
	m, err := newMessage(msg)
	if err != nil { // cannot be: JetStream has delivered it
		d.cfg.Logger.Error("message without its place in the stream", "consumer", d.cfg.Durable, "error", err)
	}
	if err != nil || !d.take(m.Sequence) { // redelivered while it is handled: the broker was away
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

// take reports whether a message is not being handled already.
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

// keepAlive reports to the broker that the message is being worked on, until
// the function that it returns is called.
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
				_ = msg.InProgress() // fails if the broker is away; then it is delivered again
			}
		}
	}()
	return func() { close(done) }
}
