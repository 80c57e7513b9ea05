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
//   - Caught up: the consumer has nothing pending, or has delivered nothing for
//     its stall timeout. A bounded range then asks the stream whether it is at
//     its end; one that follows continues to wait.
//
// The goroutine that ranges owns all fields. If the process ends without close,
// the broker removes the consumer after inactiveThreshold. The client's ordered
// consumer is similar, but reads on in a stream that was deleted and recreated.
type cursor struct {
	source Source
	sel    Selection

	next         uint64        // the sequence of the next message, or a lower one
	created      time.Time     // of the stream; zero until it was first seen
	stallTimeout time.Duration // how long to wait for a message: stallCheck until one was lost

	stream    jetstream.Stream
	consumer  jetstream.Consumer // nil while there is none
	consumers int                // how many were created
	received  uint64             // messages from this consumer
	counted   uint64             // messages that this consumer was to deliver when it was created
	pending   uint64             // messages that it has yet to deliver, by its own count
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

// read calls message for each message of the selection, and caughtUp each time that
// the cursor has caught up or is still waiting, until one of them returns false.
func (c *cursor) read(ctx context.Context, message func(Message) bool, caughtUp func(context.Context) bool) error {
	for more := true; more; {
		if c.consumer == nil {
			if err := c.retry(ctx, c.open); err != nil {
				return err
			}
		}
		if c.pending == 0 && !caughtUp(ctx) {
			return nil
		}
		var err error
		if more, err = c.fetch(ctx, message, caughtUp); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads one batch, and reports whether to continue. It closes a consumer that
// cannot be used any longer.
func (c *cursor) fetch(ctx context.Context, message func(Message) bool, caughtUp func(context.Context) bool) (more bool, err error) {
	n := fetchMessages
	if c.empty {
		n = 1
	}
	c.empty, more = true, true
	lost := false // a message before the last one
	err = c.source.pull(ctx, c.consumer, n, c.stallTimeout, func(msg jetstream.Msg) bool {
		m := newMessage(msg)
		c.received++
		if lost = m.delivery != c.received; lost || ctx.Err() != nil {
			return false
		}
		c.next, c.pending, c.empty = m.Sequence+1, m.Pending, false
		more = message(m) && (c.pending > 0 || caughtUp(ctx))
		return more
	})
	switch {
	case !more:
		return false, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case lost:
		c.close()
		return true, nil
	case err == nil: // the batch is complete, or its first message is larger than fetchBytes
		return true, nil
	}
	info, err := c.consumer.Info(ctx)
	// The stream's sequence does not show this: it passes messages that cannot be read.
	if err == nil && info.Delivered.Consumer == c.received {
		return caughtUp(ctx), nil
	}
	// The connection, the consumer or a message is lost. A message may be too large
	// to arrive in that time: from now on, wait until shortly before the request
	// expires.
	c.stallTimeout = jetstream.DefaultExpires - time.Second
	c.close()
	return true, nil
}

// retry calls a function until it succeeds. It waits for a broker that is away,
// except before the first consumer, and returns an error that does not change.
func (c *cursor) retry(ctx context.Context, call func(context.Context) error) error {
	for {
		err := call(ctx)
		_, unreadable := errors.AsType[*UnreadableError](err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case c.consumers == 0, unreadable, isClosed(err), errors.Is(err, errStreamRecreated), errors.Is(err, jetstream.ErrStreamNotFound) && !c.sel.Follow:
			return err
		}
		wait(ctx)
	}
}

// open creates a consumer that begins at c.next.
func (c *cursor) open(ctx context.Context) error {
	stream, err := c.source.open(ctx, c.sel.Kind)
	if err != nil {
		return err
	}
	if err := c.identify(stream.CachedInfo()); err != nil {
		return err
	}
	since := c.sel.Since
	if c.next > 1 {
		since = time.Time{}
	}
	consumer, err := stream.CreateConsumer(ctx, c.config(c.next, since))
	if err != nil {
		return err
	}
	info := consumer.CachedInfo()
	c.stream, c.consumer, c.received, c.counted, c.pending = stream, consumer, 0, info.NumPending, info.NumPending
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

// config returns the configuration of a consumer that begins at a sequence, or,
// where it is not zero, at a time.
func (c *cursor) config(sequence uint64, at time.Time) jetstream.ConsumerConfig {
	config := jetstream.ConsumerConfig{
		FilterSubject:     c.subject(),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       sequence,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       c.sel.HeadersOnly,
		InactiveThreshold: inactiveThreshold,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if !at.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &at
	}
	return config
}

// subject returns the subject of the selected messages, with wildcards.
func (c *cursor) subject() string {
	switch {
	case c.sel.Subject != "":
		return c.sel.Subject
	case c.sel.Kind == schema.KindEvent:
		return c.sel.Filter.Subject(c.source.subject())
	default:
		return c.sel.Kind.Prefix(c.source.subject()) + ".>"
	}
}

// count returns how many messages a consumer would deliver.
func (c *cursor) count(ctx context.Context, sequence uint64, at time.Time) (uint64, error) {
	consumer, err := c.stream.CreateConsumer(ctx, c.config(sequence, at))
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	_ = c.stream.DeleteConsumer(ctx, info.Name) // otherwise the broker removes it after inactiveThreshold
	return info.NumPending, nil
}

// close deletes the consumer, if there is one.
func (c *cursor) close() {
	if c.consumer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.stream.DeleteConsumer(ctx, c.consumer.CachedInfo().Name)
	c.consumer = nil
}
