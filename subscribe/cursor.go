package subscribe

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A cursor is the position of a range in a stream. It reads on through consumers
// of the broker, one after the other, and is in one of three states:
//
//   - It has no consumer: at the start, and when the last one was lost with the
//     broker, was deleted, or has skipped a message. open creates the next one.
//   - It fetches: a request for messages is outstanding, or its batch is read.
//   - It has caught up: the consumer has nothing pending, or does not deliver.
//     A bounded range then asks the stream whether that is its end; one that
//     follows waits on.
//
// The goroutine that ranges owns it. The broker owns its consumer, and removes
// it after inactiveThreshold if the process ends without close. The client's
// ordered consumer does the same, but takes a stream that was deleted and created
// anew for the old one.
type cursor struct {
	source Source
	sel    Selection

	next    uint64    // the sequence from which to read on
	created time.Time // of the stream; zero until it was first seen

	stream    jetstream.Stream
	consumer  jetstream.Consumer // nil while there is none
	consumers int                // how many there were
	received  uint64             // messages from this consumer
	pending   uint64             // messages that it has yet to deliver, by its own count
	empty     bool               // whether the last batch was
}

const (
	// stallCheck is after how long without a message the broker is asked about
	// the consumer, which may have been deleted.
	stallCheck = 7 * time.Second
	// inactiveThreshold is after how long without a request the broker removes a
	// consumer.
	inactiveThreshold = time.Minute
	// fetchMessages bounds a request.
	fetchMessages = 1000
)

// errStreamRecreated ends a bounded range: what it was to read is gone.
var errStreamRecreated = errors.New("the stream was deleted and created anew while it was read")

func (s Source) cursor(sel Selection) cursor {
	return cursor{source: s, sel: sel, next: max(sel.First, 1)}
}

// read calls message for each message of the selection, and caughtUp whenever
// the cursor has caught up, until one of them returns false.
func (c *cursor) read(ctx context.Context, message func(Message) bool, caughtUp func(context.Context) bool) error {
	for {
		if c.consumer == nil {
			if err := c.open(ctx); err != nil {
				return err
			}
		}
		if c.pending == 0 && !caughtUp(ctx) {
			return nil
		}
		if more, err := c.fetch(ctx, message, caughtUp); err != nil || !more {
			return err
		}
	}
}

// fetch reads one batch. It closes a consumer that cannot be used further, and
// reports whether to read on.
func (c *cursor) fetch(ctx context.Context, message func(Message) bool, caughtUp func(context.Context) bool) (more bool, err error) {
	n := fetchMessages
	if c.empty {
		n = 1
	}
	batch, end, err := c.source.fetch(ctx, c.consumer, n)
	if err != nil {
		c.close()
		return true, nil
	}
	defer end()
	c.empty = true
	began := time.Now()
	undelivered := false // the consumer has sent a message that has not arrived
	stalled := time.NewTimer(stallCheck)
	defer stalled.Stop()
	for {
		select {
		case msg, ok := <-batch.Messages():
			switch {
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case !ok:
				if idle := time.Since(began); batch.Error() != nil || undelivered || idle > inactiveThreshold-apiTimeout {
					c.close()
				}
				return true, nil
			}
			m, err := newMessage(msg)
			if err != nil {
				return false, err
			}
			if c.received++; m.delivery != c.received { // one was lost on its way
				c.close()
				return true, nil
			}
			c.next, c.pending, c.empty, undelivered = m.Sequence+1, m.Pending, false, false
			if !message(m) || c.pending == 0 && !caughtUp(ctx) {
				return false, nil
			}
		case <-stalled.C:
			asking, cancel := context.WithTimeout(ctx, apiTimeout)
			info, err := c.consumer.Info(asking)
			cancel()
			switch {
			case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
				c.close()
				return true, nil
			case err != nil: // the reply may wait behind a large message; heartbeats decide
			case info.Delivered.Stream >= c.next:
				undelivered = true
			case !caughtUp(ctx):
				return false, nil
			}
		}
		stalled.Reset(stallCheck)
	}
}

// open creates a consumer that begins at c.next. Unless it is the first one, it
// waits for a broker that is away.
func (c *cursor) open(ctx context.Context) error {
	for {
		err := c.tryOpen(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case c.consumers == 0, isClosed(err), errors.Is(err, errStreamRecreated):
			return err
		case !c.sel.Follow && errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		wait(ctx)
	}
}

func (c *cursor) tryOpen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := c.source.open(ctx, c.sel.Kind)
	if err != nil {
		return err
	}
	if err := c.identify(stream.CachedInfo()); err != nil {
		return err
	}
	consumer, err := stream.CreateConsumer(ctx, c.config())
	if err != nil {
		return err
	}
	info := consumer.CachedInfo()
	c.stream, c.consumer, c.received, c.pending = stream, consumer, 0, info.NumPending
	c.next = max(c.next, info.Delivered.Stream+1) // past what Since leaves out, and what is no longer stored
	c.consumers++
	return nil
}

// identify checks that the stream is the one that is being read.
func (c *cursor) identify(stream *jetstream.StreamInfo) error {
	if !c.created.IsZero() && !c.created.Equal(stream.Created) {
		if !c.sel.Follow {
			return errStreamRecreated
		}
		c.next = 1
	}
	c.created = stream.Created
	return nil
}

// config returns the configuration of a consumer that begins at c.next.
func (c *cursor) config() jetstream.ConsumerConfig {
	config := jetstream.ConsumerConfig{
		FilterSubject:     c.source.filterSubject(c.sel),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       c.next,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       c.sel.HeadersOnly,
		InactiveThreshold: inactiveThreshold,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if c.next == 1 && !c.sel.Since.IsZero() {
		return startingAt(config, c.sel.Since)
	}
	return config
}

func startingAt(config jetstream.ConsumerConfig, t time.Time) jetstream.ConsumerConfig {
	config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &t
	return config
}

// filterSubject returns the subject of what is selected, with wildcards.
func (s Source) filterSubject(sel Selection) string {
	switch {
	case sel.Subject != "":
		return sel.Subject
	case sel.Kind == schema.KindEvent:
		return sel.Filter.Subject(s.subject())
	default:
		return sel.Kind.Prefix(s.subject()) + ".>"
	}
}

// close deletes the consumer, if there is one.
func (c *cursor) close() {
	if c.consumer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.source.JetStream.DeleteConsumer(ctx, c.source.stream(c.sel.Kind), c.consumer.CachedInfo().Name)
	c.consumer = nil
}
