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

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// ErrPermanent is wrapped by a handler's error that no further attempt would
// change: the event is dead-lettered immediately.
//
//	return fmt.Errorf("study %s is not ours: %w", id, subscribe.ErrPermanent)
var ErrPermanent = errors.New("permanent failure")

// Consumer configures [Source.Consume]. Durable, Event and Erasure must be set.
//
// A handler's context carries the trace that began with the webhook, and a span
// of it if the program has set OpenTelemetry up (otel.SetTracerProvider).
//
// A handler's error is logged, and stored with the dead letter: it must contain
// nothing of an interview.
type Consumer struct {
	// Durable is the name of the durable consumer, in which the broker keeps what
	// was acknowledged. Processes that consume under one name share the events.
	Durable string

	// Event handles an event. Return nil to acknowledge it, ErrPermanent to
	// dead-letter it, and any other error to have it redelivered. A panic counts
	// as an error; the log shows the type of its value and the stack.
	//
	// The handler may get an event more than once: after a crash, a lost
	// connection or an error. event.ID is the idempotency key. The handler's
	// context ends when Grace is over, not when Consume's context does.
	Event func(ctx context.Context, event schema.Event, m Message) error

	// Erasure is called in place of Event for an event that was erased: everything
	// derived from the event must be erased too. The erasure may arrive before its
	// event, which may still be in flight in another process, or without it:
	// remember the erased id, so that a late event is rejected.
	Erasure func(ctx context.Context, erased schema.Subject, m Message) error

	// Filter and Subject choose the events; set one of them, or none to read all.
	// They cannot be changed for a Durable that exists.
	Filter  schema.Filter
	Subject string // NATS subject, with wildcards
	// Since makes a new consumer begin with the events stored at that time or
	// later; zero is the first event. A Durable that exists resumes from its
	// position.
	Since time.Time

	// Concurrency is how many events are handled concurrently, in this process; 0
	// is 1. While there is a backlog, further events are fetched ahead: those that
	// the handlers will begin with within a hundredth of AckWait, at most 256. What
	// is fetched at a time has at most 8 MiB.
	Concurrency int

	// Attempts is how often the handler may fail on an event before the event is
	// dead-lettered; 0 is 20, which with the default Backoff take at least two and a
	// half hours. An attempt counts when the handler has returned an error or
	// panicked. Each process counts its own attempts, and records the counts for the
	// next process when it stops gracefully. The package documentation describes how
	// an event that ends the process is found.
	Attempts int
	// Backoff are the times between an event's attempts; the last one repeats. nil
	// is 1 s, 5 s, 30 s, 2 min, 10 min.
	Backoff []time.Duration

	// AckWait is the time after which an event is redelivered if its process has
	// ended; 0 is 30 s. A handler may take longer: while it runs, progress is
	// reported to the broker.
	AckWait time.Duration
	// Grace is how long handlers may run after Consume's context has ended; 0 is
	// 20 s. Then their own context ends, and Consume waits until they return.
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
		return c, errors.New("consumer without a handler for erasures: everything derived from an erased event must be erased too; if nothing is kept, set a handler that returns nil")
	case c.Subject != "" && c.Filter != (schema.Filter{}):
		return c, errors.New("consumer with a Subject and a Filter: set one of them")
	case min(c.Concurrency, c.Attempts) < 0 || min(c.AckWait, c.Grace) < 0 || slices.ContainsFunc(c.Backoff, func(d time.Duration) bool { return d <= 0 }):
		return c, errors.New("consumer with a negative Concurrency, Attempts, AckWait or Grace, or a Backoff that is not positive")
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

// pause returns the time between the given attempt and the next.
func (c Consumer) pause(attempt int) time.Duration {
	return c.Backoff[min(attempt, len(c.Backoff))-1]
}

// Consume hands the events of the stream to the consumer's handlers until ctx
// ends. It then fetches no more, waits for the handlers that run, and returns nil,
// or an error if they did not return within Grace.
//
// It creates the durable consumer and the dead-letter stream if they do not
// exist. It waits for a broker that does not answer, at the start as well. It
// returns an error if the stream does not exist, if the durable consumer exists
// and would skip events that c selects, if the stream or the durable consumer is
// deleted, or if the connection is closed.
//
// The broker skips messages that its store cannot return, and Consume does not
// notice; see [UnreadableError].
func (s Source) Consume(ctx context.Context, c Consumer) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(withoutDeadline{ctx})
	defer stop()
	d, err := s.awaitDispatcher(ctx, c)
	if err == nil {
		requeued := make(chan error, 1)
		go func() { requeued <- d.runRequeued(ctx) }()
		err = d.run(ctx)
		stop()
		err = errors.Join(err, <-requeued)
	} else if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("consumer %s: %w", c.Durable, err)
	}
	return nil
}

// awaitDispatcher makes a dispatcher as soon as the broker answers.
func (s Source) awaitDispatcher(ctx context.Context, c Consumer) (*dispatcher, error) {
	nc := s.JetStream.Conn()
	for logged := ""; ; {
		before, err := nc.LastError(), nats.ErrDisconnected
		if !nc.IsReconnecting() {
			var d *dispatcher
			if d, err = s.dispatcher(ctx, c); err == nil || !isTransient(err) {
				return d, err
			}
		}
		// The broker reports a permission violation on the connection, and does not
		// reply to the request.
		if last := nc.LastError(); last != before && errors.Is(last, nats.ErrPermissionViolation) {
			return nil, fmt.Errorf("%w (%w)", last, err)
		}
		if text := err.Error(); text != logged {
			c.Logger.Warn("broker does not answer; waiting for it", "consumer", c.Durable, "error", err)
			logged = text
		}
		if wait(ctx); ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// isTransient reports whether a request that failed may succeed later.
func isTransient(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code == 503 && api.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount
	}
	transient := []error{context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrReconnectBufExceeded}
	return slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) })
}

// Typed returns a handler for [Consumer].Event that calls handle with the data
// of each event, decoded as a T: the Go type that belongs to one type of event.
// The event's id and subject are those of the message.
//
//	subscribe.Consumer{
//		Filter: schema.Filter{Type: "interview.completed"},
//		Event: subscribe.Typed(func(ctx context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
//
// An event of another type becomes a dead letter, so a consumer with a typed
// handler sets Filter.Type.
func Typed[T any](handle func(ctx context.Context, data T, m Message) error) func(context.Context, schema.Event, Message) error {
	return func(ctx context.Context, event schema.Event, m Message) error {
		data, err := schema.DecodeAs[T](event)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrPermanent)
		}
		return handle(ctx, data, m)
	}
}
