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

	// Event handles an event. Return nil to acknowledge it, ErrPermanent to
	// dead-letter it, and any other error to have it redelivered. A panic is an
	// error of this event; the log shows the type of its value and the stack.
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

	// Filter and Subject choose the events; set one of them, or none to read all.
	// They cannot be changed for a Durable that exists.
	Filter  schema.Filter
	Subject string // NATS subject, with wildcards
	// Since is where a new consumer begins, by the time of storing; zero is the
	// first event. A Durable that exists goes on where it is.
	Since time.Time

	// Concurrency is how many events are handled concurrently, in this process; 0
	// is 1. Events are fetched when there is a free slot, up to 8 MiB a time.
	Concurrency int

	// Attempts is how often the handler may fail on an event before the event is
	// dead-lettered; 0 is 20. An attempt counts when the handler has returned an
	// error or panicked. Each process counts its own, and leaves its counts to
	// the next one when it stops gracefully. The package documentation describes
	// what becomes of an event that ends the process.
	Attempts int
	// Backoff is the time between an event's attempts; the last one repeats. nil is
	// 1 s, 5 s, 30 s, 2 min, 10 min.
	Backoff []time.Duration

	// AckWait is after how long an event whose consumer has vanished is
	// redelivered; 0 is 30 s. A slow handler may take longer: while it runs, the
	// broker is kept informed.
	AckWait time.Duration
	// Grace is how long handlers may go on after Consume's context has ended; 0
	// is 20 s. Then their own context ends, and Consume waits until they return.
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

// pause returns the time between the given attempt and the next.
func (c Consumer) pause(attempt int) time.Duration {
	return c.Backoff[min(attempt, len(c.Backoff))-1]
}

// Consume hands the events of the stream to the consumer's handlers until ctx
// ends. It then takes no more, lets the handlers that run finish, and returns
// nil, or an error if they did not finish within Grace.
//
// It creates the durable consumer and the dead-letter stream if they do not
// exist. It waits for a broker that does not answer, at its start as well. It
// returns an error if the stream does not exist, if the durable consumer exists
// and would skip events that c asks for, if one of them is deleted, or if the
// connection is closed.
//
// The broker passes over messages that its store cannot return, and Consume does
// not notice; see [UnreadableError].
func (s Source) Consume(ctx context.Context, c Consumer) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	d, err := s.awaitDispatcher(ctx, c)
	if err == nil {
		err = d.run(ctx)
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
		s.awaitConnection(ctx, c)
		before := nc.LastError()
		d, err := s.dispatcher(ctx, c)
		if err == nil || !isTransient(err) {
			return d, err
		}
		// The broker does not answer a request that it denies.
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
	for _, transient := range []error{context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrReconnectBufExceeded} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}
