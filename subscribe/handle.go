package subscribe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// handle calls the handler for a message, or for the event of the dead letter that the
// message requeues. It reports whether the message is to be acknowledged, because the
// handler has returned nil or the event was dead-lettered. Otherwise it is redelivered.
func (d *dispatcher) handle(ctx context.Context, f *flight, suspect bool) (done bool) {
	msg, m := f.msg, f.m
	if d.kind == schema.KindDead {
		event, ok, err := d.requeued(ctx, m)
		if err != nil {
			d.log(f).Warn("cannot look up the dead letter that was requeued; retrying", "error", err)
			_ = msg.NakWithDelay(d.cfg.pause(1))
			return false
		}
		f.event = event
		if !ok {
			return true
		}
	}
	if suspect {
		d.log(f).Warn("event was delivered repeatedly without a handler returning; it is handled alone")
		ended, err := d.beginAlone(ctx, m)
		switch {
		case err != nil:
			d.log(f).Warn("cannot record at the broker that the event is handled alone; it is redelivered", "error", err)
			_ = msg.NakWithDelay(d.cfg.pause(1))
			return false
		case ended >= d.fatalAttempts():
			return d.giveUp(ctx, f, fmt.Errorf("the process ended each of the %d times that the event was handled alone", ended), d.cfg.pause(ended), d.log(f))
		}
		defer func() {
			if err := d.endAlone(context.WithoutCancel(ctx), m); err != nil {
				d.log(f).Warn("cannot record at the broker that the event's handler has returned; a later crash may be charged to the event", "error", err)
			}
		}()
	}
	begun := time.Now()
	err := d.attempt(ctx, f)
	d.handlerTook(time.Since(begun))
	switch {
	case err == nil:
		d.forget(m.Sequence)
		return true
	case ctx.Err() != nil: // the handler was interrupted
		_ = msg.Nak()
		return false
	}
	attempts := d.failed(m)
	pause := d.cfg.pause(attempts)
	log := d.log(f).With("attempt", attempts)
	if attempts >= d.cfg.Attempts || errors.Is(err, ErrPermanent) {
		return d.giveUp(ctx, f, err, pause, log)
	}
	log.Warn("handler failed; the event is redelivered", "error", err, "after", pause.String())
	_ = msg.NakWithDelay(pause) // if the nak is lost, the event is redelivered after AckWait
	return false
}

// giveUp dead-letters a message. If that fails, it returns false, and the message is
// redelivered after the pause.
func (d *dispatcher) giveUp(ctx context.Context, f *flight, reason error, pause time.Duration, log *slog.Logger) (done bool) {
	log = log.With("error", reason)
	if err := d.deadLetter(ctx, f.event, reason); err != nil {
		log.Error("event cannot be dead-lettered; it is redelivered", "why", err, "after", pause.String())
		_ = f.msg.NakWithDelay(pause)
		return false
	}
	log.Error("event was dead-lettered")
	d.forget(f.m.Sequence)
	return true
}

// log returns a logger with what identifies the event of a message.
func (d *dispatcher) log(f *flight) *slog.Logger {
	log := d.cfg.Logger.With("consumer", d.cfg.Durable, "id", f.m.ID, "delivery", f.m.Deliveries, "sequence", f.event.Sequence)
	if f.event.letter > 0 {
		log = log.With("dead_letter", f.event.letter)
	}
	return log
}

// attempt calls the handler once. It returns a panic as an error.
func (d *dispatcher) attempt(ctx context.Context, f *flight) (err error) {
	m := f.event
	ctx, span := d.startSpan(ctx, m)
	defer func() { endSpan(span, err) }()
	defer func() {
		if value := recover(); value != nil {
			// The value is not shown: it may hold an interview's content.
			err = fmt.Errorf("handler panicked with a value of type %T", value)
			d.log(f).Error("handler panicked", "type", fmt.Sprintf("%T", value), "stack", panicStack())
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
// request to requeue is its deletion. While the connection is lost, it waits for it, until
// ctx ends.
func (d *dispatcher) confirm(ctx context.Context, f *flight) {
	acknowledge := f.msg.DoubleAck
	if d.kind == schema.KindDead {
		acknowledge = func(ctx context.Context) error { return d.settle(ctx, f.m, f.event) }
	}
	err := acknowledge(f.ctx)
	for retries := 2; err != nil && f.ctx.Err() == nil && retries > 0; err = acknowledge(f.ctx) {
		if ctx.Err() == nil && d.source.JetStream.Conn().IsReconnecting() {
			wait(ctx)
		} else {
			retries--
		}
	}
	if err != nil && context.Cause(f.ctx) != errRewound {
		d.log(f).Warn("acknowledgement was not confirmed; the event may be redelivered", "error", err)
	}
}

// tracer uses the program's tracer provider, if it has set one
// (otel.SetTracerProvider).
var tracer = otel.Tracer("versive-ingress/subscribe")

// spanStart returns the attributes with which the spans of all messages of a stream start.
func spanStart(stream, durable string) trace.SpanStartOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingOperationName("process"),
		semconv.MessagingDestinationName(stream),
		semconv.MessagingConsumerGroupName(durable),
	)
}

// startSpan begins the span of one attempt to handle m. It belongs to the trace
// that the ingress began with the webhook, as a child of the span that published
// m. It is linked to that span as well, as OpenTelemetry's messaging conventions
// recommend.
func (d *dispatcher) startSpan(ctx context.Context, m Message) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{d.spanStart, trace.WithSpanKind(trace.SpanKindConsumer)}
	if parent := m.Header.Get("traceparent"); parent != "" {
		published := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{
			"traceparent": parent,
			"tracestate":  m.Header.Get("tracestate"),
		}))
		if published.IsValid() {
			ctx = trace.ContextWithRemoteSpanContext(ctx, published)
			options = append(options, trace.WithLinks(trace.Link{SpanContext: published}))
		}
	}
	ctx, span := tracer.Start(ctx, "process "+d.source.stream(d.kind), options...)
	if span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingMessageID(m.ID),
			semconv.MessagingMessageBodySize(m.Size),
			attribute.Int64("versive_ingress.sequence", int64(m.Sequence)),
			attribute.Int64("versive_ingress.delivery", int64(m.Deliveries)),
		)
	}
	return ctx, span
}

// endSpan ends the span of an attempt. It leaves the error's text to the log.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetAttributes(semconv.ErrorType(err))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
