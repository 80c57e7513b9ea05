package subscribe

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A cursor is the position of a range in a stream. It reads through ephemeral
// consumers, one after the other, and is in one of three states:
//
//   - No consumer: at the start, and after a consumer was lost with the broker or
//     the connection, was deleted, or has lost a message. open creates the next
//     one, which begins at next.
//   - Fetching: a request is outstanding, or its batch is being read.
//   - Caught up: still fetching, while the consumer has nothing pending, or does
//     not deliver what is pending. A bounded range then asks the stream whether it
//     is at its end; one that follows continues to wait.
//
// The goroutine that ranges owns all fields. If the process ends without close,
// the broker removes the consumer after inactiveThreshold. The client's ordered
// consumer is similar, but reads on in a stream that was deleted and recreated.
type cursor struct {
	source Source
	sel    Selection

	next    uint64    // the sequence of the next message, or a lower one
	created time.Time // of the stream; zero until it was first seen

	stream    jetstream.Stream
	consumer  jetstream.Consumer // nil while there is none
	consumers int                // how many were created
	received  uint64             // messages from this consumer
	pending   uint64             // messages that this consumer has yet to deliver, by its own count
	empty     bool               // whether the last batch was
}

const (
	// stallCheck is the time without a message after which the broker is asked for
	// the state of the consumer. It may have been deleted.
	stallCheck = 7 * time.Second
	// inactiveThreshold is the time without a request after which the broker
	// removes a consumer.
	inactiveThreshold = time.Minute
	// fetchMessages bounds one request.
	fetchMessages = 1000
)

// errStreamRecreated ends a bounded range, whose messages no longer exist.
var errStreamRecreated = errors.New("the stream was deleted and recreated while it was read")

func (s Source) cursor(sel Selection) cursor {
	return cursor{source: s, sel: sel, next: max(sel.First, 1)}
}

// read calls message for each message of the selection, and caughtUp each time that
// the cursor has caught up or is still waiting, until one of them returns false.
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

// fetch reads one batch, and reports whether to continue. It closes a consumer that
// cannot be used any longer.
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
	undelivered := false // whether the consumer has sent a message that has not arrived
	stalled := time.NewTimer(stallCheck)
	defer stalled.Stop()
	for {
		select {
		case msg, ok := <-batch.Messages():
			switch {
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case !ok:
				removed := time.Since(began) > inactiveThreshold-apiTimeout // the broker may have, while the batch was read
				if batch.Error() != nil || undelivered || removed {
					c.close()
				}
				return true, nil
			}
			m, err := newMessage(msg)
			if err != nil {
				return false, err
			}
			if c.received++; m.delivery != c.received { // a message before it was lost
				c.close()
				return true, nil
			}
			c.next, c.pending, c.empty, undelivered = m.Sequence+1, m.Pending, false, false
			if !message(m) || c.pending == 0 && !caughtUp(ctx) {
				return false, nil
			}
		case <-stalled.C:
			infoCtx, cancel := context.WithTimeout(ctx, apiTimeout)
			info, err := c.consumer.Info(infoCtx)
			cancel()
			switch {
			case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
				c.close()
				return true, nil
			case err != nil: // the reply may be queued after a large message; without heartbeats, the batch ends
			// Not by the stream's sequence: that passes messages that cannot be read.
			case info.Delivered.Consumer > c.received: // in flight, or lost if the batch ends without it
				undelivered = true
			case !caughtUp(ctx):
				return false, nil
			}
		}
		stalled.Reset(stallCheck)
	}
}

// open creates a consumer that begins at c.next. For the first one, any error is
// returned; for later ones, open waits for a broker that is away.
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
	c.next = max(c.next, info.Delivered.Stream+1) // skips messages before Since, and those no longer stored
	c.consumers++
	return nil
}

// identify checks that the stream was not recreated. One that follows begins such a
// stream at its first message.
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

// startingAt returns the configuration with a start time in place of a sequence.
func startingAt(config jetstream.ConsumerConfig, t time.Time) jetstream.ConsumerConfig {
	config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &t
	return config
}

// filterSubject returns the subject of the selected messages, with wildcards.
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
