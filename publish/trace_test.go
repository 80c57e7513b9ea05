package publish_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// span returns a context with a span of the given trace.
func span(t *testing.T, id byte) context.Context {
	t.Helper()
	state, err := trace.ParseTraceState("vendor=state")
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{id}, SpanID: trace.SpanID{id}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
}

// A stored message has the trace headers of its caller's span, in every mode. A resend
// does not change them.
func TestTraceHeaders(t *testing.T) {
	t.Parallel()
	for _, mode := range []publish.Mode{publish.ModeSingle, publish.ModeBatch} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			cfg := config(broker.URL())
			cfg.Mode = mode
			p := openPublisher(t, cfg)
			traced, malformed := event(t, "msg_1"), schema.Quarantine("msg_2", []byte("{"), &schema.Error{Reason: schema.Malformed}, nil)
			for _, publishing := range []struct {
				ctx context.Context
				m   schema.Message
			}{
				{span(t, 1), traced},
				{span(t, 2), traced},
				{span(t, 3), malformed},
				{t.Context(), event(t, "msg_3")},
			} {
				if _, err := p.Publish(publishing.ctx, publishing.m); err != nil {
					t.Fatal(err)
				}
			}
			if len(traced.Header["traceparent"]) != 0 {
				t.Error("the caller's message was changed")
			}

			js := embeddedtest.Connect(t, broker.URL())
			for _, want := range []struct {
				stream   string
				sequence uint64
				trace    byte // 0 if none
			}{{"VERSIVE", 1, 1}, {"VERSIVE", 2, 0}, {"VERSIVE_QUARANTINE", 1, 3}} {
				m := message(t, js, want.stream, want.sequence)
				parent, state := "", ""
				if want.trace != 0 {
					parent, state = fmt.Sprintf("00-%032x-%016x-01", []byte{want.trace, 15: 0}, []byte{want.trace, 7: 0}), "vendor=state"
				}
				if m.Header.Get("traceparent") != parent || m.Header.Get("tracestate") != state {
					t.Errorf("%s %d has the headers %v, want %q and %q", want.stream, want.sequence, m.Header, parent, state)
				}
			}
		})
	}
}

func message(t *testing.T, js jetstream.JetStream, name string, sequence uint64) *jetstream.RawStreamMsg {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
