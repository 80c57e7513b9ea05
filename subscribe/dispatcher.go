package subscribe

import (
	"context"
	"errors"
	"fmt"
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
	Consumer
	source   Source
	stream   jetstream.Stream
	consumer jetstream.Consumer

	slots   chan struct{} // one token for each free worker slot
	running sync.WaitGroup

	mu sync.Mutex
	// taken are the sequences of the messages that are not finished. Guarded by
	// mu.
	taken map[uint64]bool
}

func (s Source) dispatcher(ctx context.Context, c Consumer) (*dispatcher, error) {
	d := &dispatcher{
		Consumer: c,
		source:   s,
		slots:    make(chan struct{}, c.Concurrency),
		taken:    make(map[uint64]bool),
	}
	for range c.Concurrency {
		d.slots <- struct{}{}
	}
	var err error
	if d.stream, err = s.open(ctx, schema.KindEvent); err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.stream(schema.KindEvent), err)
	}
	if err := s.ensureDeadLetters(ctx, d.stream.CachedInfo().Config.Replicas); err != nil {
		return nil, err
	}
	if d.consumer, err = s.durable(ctx, d.stream, c); err != nil {
		return nil, err
	}
	return d, nil
}

const (
	// fetchTime is for how long the broker keeps a request for messages.
	fetchTime = 30 * time.Second
	// heartbeat is how often it tells that it still does. Two of them missing
	// end the request, and another one is made: a broker that was restarted is
	// asked again after that time, and a single event may take as long on a slow
	// connection.
	heartbeat = 3 * time.Second
	// fetchBytes bounds what is asked for at once. A broker drops a client for
	// which it holds more than 64 MiB; its largest message is 32 MiB.
	fetchBytes = 48 << 20
)

func (d *dispatcher) run(ctx context.Context) error {
	// Handlers have a context of their own: they may finish what they began.
	handling, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()

	var err error
	for ctx.Err() == nil && err == nil {
		err = d.fetch(ctx, handling)
	}
	finished := make(chan struct{})
	go func() {
		d.running.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return err
	case <-time.After(d.Grace):
	}
	abandon()
	<-finished
	return errors.Join(err, fmt.Errorf("handlers did not finish within %v; what they did not finish is delivered again", d.Grace))
}

// fetch takes all free slots, at least one, fetches as many messages and gives
// each to a hand. Its error ends the consumer.
func (d *dispatcher) fetch(ctx, handling context.Context) error {
	n := d.takeSlots(ctx)
	if n == 0 {
		return nil
	}
	fetching, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	batch, err := d.consumer.Fetch(n, jetstream.FetchContext(fetching), jetstream.FetchHeartbeat(heartbeat), jetstream.FetchMaxBytes(fetchBytes))
	if err == nil {
		for msg := range batch.Messages() {
			n--
			d.start(ctx, handling, msg)
		}
		err = batch.Error()
	}
	for range n {
		d.slots <- struct{}{}
	}
	switch {
	case err == nil, fetching.Err() != nil:
		return nil
	default:
		return d.awaitBroker(ctx, err)
	}
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

// awaitBroker waits until the broker may answer again. It returns an error if
// waiting will not help.
func (d *dispatcher) awaitBroker(ctx context.Context, err error) error {
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, asked := d.consumer.Info(asking)
	switch {
	case ctx.Err() != nil:
		return nil
	case isClosed(err), isClosed(asked):
		return nats.ErrConnectionClosed
	case errors.Is(asked, jetstream.ErrConsumerNotFound), errors.Is(asked, jetstream.ErrStreamNotFound):
		return fmt.Errorf("was deleted, or its stream: %w", asked)
	case asked == nil && errors.Is(err, jetstream.ErrNoHeartbeat): // it has been away
		return nil
	}
	d.Logger.Warn("broker does not deliver; asking again", "consumer", d.Durable, "error", err)
	select {
	case <-ctx.Done():
	case <-time.After(retryWait):
	}
	return nil
}

// start handles a message in a goroutine of its own, which gives the hand back.
func (d *dispatcher) start(ctx, handling context.Context, msg jetstream.Msg) {
	m, err := newMessage(msg)
	if err != nil { // cannot be: JetStream has delivered it
		d.Logger.Error("message without its place in the stream", "consumer", d.Durable, "error", err)
	}
	if err != nil || !d.take(m.Sequence) { // it comes again while it is handled: the broker was away
		d.slots <- struct{}{}
		return
	}
	d.running.Go(func() {
		defer func() { d.slots <- struct{}{} }()
		defer d.release(m.Sequence)
		defer d.keepAlive(msg)()
		if ctx.Err() != nil {
			_ = msg.Nak() // not begun, so another process may have it immediately
			return
		}
		d.handle(handling, msg, m)
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

// keepAlive tells the broker that the message is being worked on, until the
// function that it returns is called.
func (d *dispatcher) keepAlive(msg jetstream.Msg) (stop func()) {
	ticker := time.NewTicker(d.AckWait / 3)
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
