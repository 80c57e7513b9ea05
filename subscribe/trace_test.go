package subscribe_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Every attempt continues the trace of the webhook.
func TestTraceGoesOn(t *testing.T) {
	t.Parallel()
	// The sampler follows the ingress's decision, and samples no trace that begins here.
	// Benchmarks have no provider.
	recorder := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(recorder),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
	))
	s := newSystem(t)
	webhook := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
	m, err := schema.Normalize("msg_traced", []byte(`{"event_type":"interview.completed","interview":{"id":"i","transcript":"marker"},"study":{"id":"s"}}`))
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := s.publisher.Publish(trace.ContextWithSpanContext(t.Context(), webhook), m)
	if err != nil {
		t.Fatal(err)
	}
	s.store(t, "msg_untraced", "s", "i2")

	handled := make(chan trace.SpanContext, 10)
	failed := false
	c := (&record{}).consumer()
	c.Durable = "traced"
	c.Event = func(ctx context.Context, event schema.Event, _ subscribe.Message) error {
		handled <- trace.SpanContextFromContext(ctx)
		if event.ID == "msg_traced" && !failed {
			failed = true
			return errors.New("marker")
		}
		return nil
	}
	c.Erasure = func(ctx context.Context, _ schema.Subject, _ subscribe.Message) error {
		handled <- trace.SpanContextFromContext(ctx)
		return nil
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	s.erase(t, m.Subject("versive"), receipt.Sequence)
	embeddedtest.Await(t, "the erasure is handled", func() bool { return len(handled) == 4 })

	spans := make(map[trace.SpanID]sdktrace.ReadOnlySpan)
	embeddedtest.Await(t, "2 spans", func() bool {
		for _, span := range recorder.Ended() {
			spans[span.SpanContext().SpanID()] = span
		}
		return len(spans) == 2
	})
	attempts := 0
	for range 4 {
		in := <-handled
		if in.TraceID() != webhook.TraceID() { // the message was not traced
			if !in.IsValid() || in.IsSampled() {
				t.Errorf("a message without a trace was handled in %v", in)
			}
			continue
		}
		attempts++
		span, ok := spans[in.SpanID()]
		if !ok {
			t.Fatalf("a handler ran in the span %v, which is not its own", in)
		}
		if span.Name() != "process VERSIVE" || span.SpanKind() != trace.SpanKindConsumer {
			t.Errorf("the span is %s %v", span.SpanKind(), span.Name())
		}
		if span.Parent().SpanID() != webhook.SpanID() || len(span.Links()) != 1 || span.Links()[0].SpanContext.SpanID() != webhook.SpanID() {
			t.Errorf("the span is below %v and linked to %v, want %v", span.Parent(), span.Links(), webhook)
		}
		if want := map[bool]codes.Code{true: codes.Error, false: codes.Unset}[attempts == 1]; span.Status().Code != want || span.Status().Description != "" {
			t.Errorf("attempt %d has the status %v: %v", attempts, span.Status(), span.Attributes())
		}
	}
	if attempts != 2 {
		t.Errorf("%d attempts belong to the webhook's trace, want 2", attempts)
	}
}
