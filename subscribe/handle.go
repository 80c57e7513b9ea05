package subscribe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// handle calls the handler for a message, or for the event of the dead letter that the
// message requeues, and acknowledges it, dead-letters it, or leaves it to be redelivered.
func (d *dispatcher) handle(ctx context.Context, msg jetstream.Msg, m Message, suspect bool) {
	log := d.cfg.Logger.With("consumer", d.cfg.Durable, "id", m.ID, "delivery", m.Deliveries)
	event := m
	if d.kind == schema.KindDead {
		var ok bool
		var err error
		event, ok, err = d.requeued(ctx, m)
		if err != nil {
			log.Warn("cannot look up the dead letter that was requeued; retrying", "error", err)
			_ = msg.NakWithDelay(d.cfg.pause(1))
			return
		}
		if !ok {
			d.confirm(ctx, msg, m, event)
			return
		}
		log = log.With("dead_letter", event.letter)
	}
	log = log.With("sequence", event.Sequence)
	if suspect {
		log.Warn("event was delivered repeatedly without a handler returning; it is handled alone")
		ended, err := d.beginAlone(ctx, m)
		switch {
		case err != nil:
			log.Warn("cannot record at the broker that the event is handled alone; it is redelivered", "error", err)
			_ = msg.NakWithDelay(d.cfg.pause(1))
			return
		case ended >= d.fatalAttempts():
			d.giveUp(ctx, msg, m, event, fmt.Errorf("the process ended each of the %d times that the event was handled alone", ended), d.cfg.pause(ended), log)
			return
		}
		defer func() {
			if err := d.endAlone(context.WithoutCancel(ctx), m); err != nil {
				log.Warn("cannot record at the broker that the event's handler has returned; a later crash may be charged to the event", "error", err)
			}
		}()
	}
	err := d.attempt(ctx, event, log)
	switch {
	case err == nil:
		d.confirm(ctx, msg, m, event)
		d.forget(m.Sequence)
		return
	case ctx.Err() != nil: // the handler was interrupted
		_ = msg.Nak()
		return
	}
	attempts := d.failed(m)
	pause := d.cfg.pause(attempts)
	log = log.With("attempt", attempts)
	if attempts >= d.cfg.Attempts || errors.Is(err, ErrPermanent) {
		d.giveUp(ctx, msg, m, event, err, pause, log)
		return
	}
	log.Warn("handler failed; the event is redelivered", "error", err, "after", pause.String())
	_ = msg.NakWithDelay(pause) // if the nak is lost, the event is redelivered after AckWait
}

// giveUp dead-letters a message. If that fails, the message is redelivered after
// the pause.
func (d *dispatcher) giveUp(ctx context.Context, msg jetstream.Msg, m, event Message, reason error, pause time.Duration, log *slog.Logger) {
	log = log.With("error", reason)
	if err := d.deadLetter(ctx, event, reason); err != nil {
		log.Error("event cannot be dead-lettered; it is redelivered", "why", err, "after", pause.String())
		_ = msg.NakWithDelay(pause)
		return
	}
	log.Error("event was dead-lettered")
	d.confirm(ctx, msg, m, event)
	d.forget(m.Sequence)
}

// attempt calls the handler once. It returns a panic as an error.
func (d *dispatcher) attempt(ctx context.Context, m Message, log *slog.Logger) (err error) {
	ctx, span := d.startSpan(ctx, m)
	defer func() { endSpan(span, err) }()
	defer func() {
		if value := recover(); value != nil {
			// The value is not shown: it may hold an interview's content.
			err = fmt.Errorf("handler panicked with a value of type %T", value)
			log.Error("handler panicked", "type", fmt.Sprintf("%T", value), "stack", panicStack())
		}
	}()
	if m.Erased() {
		s, err := schema.ParseSubject(m.Subject)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrPermanent)
		}
		return d.cfg.Erasure(ctx, s, m)
	}
	event, err := m.Event()
	if err != nil { // a later attempt would fail in the same way
		return fmt.Errorf("%w: %w", err, ErrPermanent)
	}
	return d.cfg.Event(ctx, event, m)
}

// panicStack returns the stack of a panic, for the deferred function that
// recovers it. Unlike debug.Stack it shows no arguments.
func panicStack() string {
	var counters [64]uintptr
	frames := runtime.CallersFrames(counters[:runtime.Callers(3, counters[:])])
	var stack strings.Builder
	for {
		frame, more := frames.Next()
		fmt.Fprintf(&stack, "%s (%s:%d)\n", frame.Function, frame.File, frame.Line)
		if !more {
			return stack.String()
		}
	}
}

// confirm acknowledges a message and waits until the broker confirms that it
// has stored the acknowledgement. Without the confirmation the message may be
// redelivered; the handler then recognizes it by its ID. The acknowledgement of a
// request to requeue is its deletion.
func (d *dispatcher) confirm(ctx context.Context, msg jetstream.Msg, m, event Message) {
	acknowledge := msg.DoubleAck
	if d.kind == schema.KindDead {
		acknowledge = func(ctx context.Context) error { return d.settle(ctx, m, event) }
	}
	rewound := d.rewound(m.Sequence)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(rewound, cancel)()
	err := acknowledge(ctx)
	for retries := 2; err != nil && ctx.Err() == nil && retries > 0; retries-- {
		err = acknowledge(ctx)
	}
	if err != nil && rewound.Err() == nil {
		d.cfg.Logger.Warn("acknowledgement was not confirmed; the event may be redelivered", "consumer", d.cfg.Durable, "id", m.ID, "sequence", event.Sequence, "error", err)
	}
}

// tracer uses the program's tracer provider, if it has set one
// (otel.SetTracerProvider).
var tracer = otel.Tracer("versive-ingress/subscribe")

// startSpan begins the span of one attempt to handle m. It belongs to the trace
// that the ingress began with the webhook, as a child of the span that published
// m. It is linked to that span as well, as OpenTelemetry's messaging conventions
// recommend.
func (d *dispatcher) startSpan(ctx context.Context, m Message) (context.Context, trace.Span) {
	var links []trace.Link
	published := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{
		"traceparent": m.Header.Get("traceparent"),
		"tracestate":  m.Header.Get("tracestate"),
	}))
	if published.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, published)
		links = append(links, trace.Link{SpanContext: published})
	}
	stream := d.source.stream(d.kind)
	return tracer.Start(ctx, "process "+stream, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...), trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingOperationName("process"),
		semconv.MessagingDestinationName(stream),
		semconv.MessagingConsumerGroupName(d.cfg.Durable),
		semconv.MessagingMessageID(m.ID),
		semconv.MessagingMessageBodySize(m.Size),
		attribute.Int64("versive_ingress.sequence", int64(m.Sequence)),
		attribute.Int64("versive_ingress.delivery", int64(m.Deliveries)),
	))
}

// endSpan ends the span of an attempt. It leaves the error's text to the log.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetAttributes(semconv.ErrorType(err))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
