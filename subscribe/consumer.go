package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// ErrPermanent is wrapped by a handler's error that no further attempt would
// mend: the event goes to the dead-letter stream at once.
//
//	return fmt.Errorf("study %s is not ours: %w", id, subscribe.ErrPermanent)
var ErrPermanent = errors.New("permanent failure")

// Consumer says what [Source.Consume] reads, and what becomes of it. Durable,
// Event and Erasure must be set.
//
// A handler's context carries the trace that began with the webhook, and a span
// of it if the program has set OpenTelemetry up (otel.SetTracerProvider).
//
// An error of a handler is logged, and kept with the dead letter: it must hold
// nothing of an interview's content.
type Consumer struct {
	// Durable names the consumer at the broker, which remembers under this name
	// what was handled. All who consume under one name share the events.
	Durable string

	// Event handles an event. nil says that it is done, ErrPermanent that it
	// never will be; every other error, that it must come again.
	//
	// It may get an event more than once: after a crash, a lost connection or an
	// error. event.ID is the idempotency key. Its context ends when
	// the time for stopping (Grace) is over, not when Consume's does.
	Event func(ctx context.Context, event schema.Event, m Message) error

	// Erasure is called in place of Event for an event that was erased: what was
	// made of it must be erased too. It may come before the event, if that was
	// still being handled elsewhere, or without it: remember what was erased, so
	// that the event is refused.
	Erasure func(ctx context.Context, erased schema.Subject, m Message) error

	Filter  schema.Filter // which events
	Subject string        // NATS subject, with wildcards, instead of Filter
	Since   time.Time     // where a new consumer begins, by the time of storing; zero is the first event

	// Concurrency is how many events are handled at once, in this process; 0 is 1.
	Concurrency int

	// Attempts is how often an event is delivered before it becomes a dead
	// letter; 0 is 20. A crash counts as an attempt.
	Attempts int
	// Backoff is the time between an event's attempts; the last one repeats. nil is
	// 1 s, 5 s, 30 s, 2 min, 10 min.
	Backoff []time.Duration

	// AckWait is after how long an event whose consumer has vanished is
	// delivered again; 0 is 30 s. A slow handler may take longer: while it runs,
	// the broker is told that it does.
	AckWait time.Duration
	// Grace is how long handlers may go on after Consume's context has ended; 0
	// is 20 s. Then their own context ends, and Consume waits until they heed it.
	Grace time.Duration

	Logger *slog.Logger // nil discards
}

var defaultBackoff = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}

func (c Consumer) withDefaults() (Consumer, error) {
	switch {
	case c.Durable == "" || strings.ContainsAny(c.Durable, " \t\r\n.*>/\\"):
		return c, fmt.Errorf(`consumer name %q: want a word without spaces and ". * > / \"`, c.Durable)
	case c.Event == nil:
		return c, errors.New("consumer without a handler for events")
	case c.Erasure == nil:
		return c, errors.New("consumer without a handler for erasures: what was made of an erased event must be erased too; if nothing is kept, return nil")
	case c.Subject != "" && c.Filter != (schema.Filter{}):
		return c, errors.New("consumer with a Subject and a Filter: set one of them")
	}
	if min(c.Concurrency, c.Attempts) < 0 || min(c.AckWait, c.Grace) < 0 || slices.ContainsFunc(c.Backoff, func(d time.Duration) bool { return d <= 0 }) {
		return c, errors.New("consumer with a number below zero, or a pause of none in Backoff")
	}
	c.Concurrency = cmp.Or(c.Concurrency, 1)
	c.Attempts = cmp.Or(c.Attempts, 20)
	c.AckWait = cmp.Or(c.AckWait, 30*time.Second)
	c.Grace = cmp.Or(c.Grace, 20*time.Second)
	if len(c.Backoff) == 0 {
		c.Backoff = defaultBackoff
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// pause returns the time from the given delivery to the next.
func (c Consumer) pause(delivery uint64) time.Duration {
	return c.Backoff[min(int(delivery), len(c.Backoff))-1]
}

// Consume hands the events of the stream to the consumer's handlers until ctx
// ends. It then takes no more, lets the handlers that run finish, and returns
// nil, or an error if they did not finish within Grace.
//
// It creates the durable consumer, or updates it to what Consumer says, and
// the dead-letter stream. It lives through the loss of the broker; it returns
// an error when the stream or the consumer was deleted, or the connection was
// closed.
//
// The broker passes over messages that its store cannot return, and Consume does
// not notice; see [UnreadableError].
func (s Source) Consume(ctx context.Context, c Consumer) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	d, err := s.dispatcher(ctx, c)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("consumer %s: %w", c.Durable, err)
	}
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("consumer %s: %w", c.Durable, err)
	}
	return nil
}

// durable creates the consumer at the broker or updates it. The broker never
// gives an event up by itself (MaxDeliver): that would lose it in silence.
func (s Source) durable(ctx context.Context, stream jetstream.Stream, c Consumer) (jetstream.Consumer, error) {
	subject := cmp.Or(c.Subject, c.Filter.Subject(s.subject()))
	config := jetstream.ConsumerConfig{Durable: c.Durable}
	existing, err := stream.Consumer(ctx, c.Durable)
	switch {
	case err == nil: // where it began stays as it is
		config = existing.CachedInfo().Config
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, err
	case !c.Since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &c.Since
	}
	config.FilterSubject, config.FilterSubjects = subject, nil
	config.AckPolicy = jetstream.AckExplicitPolicy
	config.AckWait, config.BackOff = c.AckWait, nil
	config.MaxDeliver = -1
	config.HeadersOnly = false
	config.MaxAckPending = max(cmp.Or(config.MaxAckPending, 1000), c.Concurrency)
	return stream.CreateOrUpdateConsumer(ctx, config)
}
