package ingest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// traced returns a change of a Config that turns on tracing, and the recorder of
// the spans.
func traced() (func(*ingest.Config), *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
	return func(c *ingest.Config) { c.Tracer = tracer }, recorder
}

// take waits for n spans since the last call and returns them in the order of their
// ends, so that the request's own is the last.
func take(t testing.TB, recorder *tracetest.SpanRecorder, n int) []sdktrace.ReadOnlySpan {
	t.Helper()
	embeddedtest.Await(t, fmt.Sprint(n, " spans"), func() bool { return len(recorder.Ended()) >= n })
	spans := recorder.Ended()
	recorder.Reset()
	if len(spans) != n {
		t.Fatalf("got %d spans, want %d", len(spans), n)
	}
	return spans
}

func attributes(span sdktrace.ReadOnlySpan) map[string]string {
	m := make(map[string]string)
	for _, a := range span.Attributes() {
		m[string(a.Key)] = a.Value.String()
	}
	return m
}

// A request has a span, with a child for each step. The publisher gets the context
// of the publish span.
func TestTrace(t *testing.T) {
	t.Parallel()
	tracing, recorder := traced()
	var published trace.SpanContext
	r := newHarness(t, fake{func(ctx context.Context, m schema.Message) (schema.Receipt, error) {
		published = trace.SpanContextFromContext(ctx)
		switch m.ID {
		case "msg_full":
			return schema.Receipt{}, namedError{"full"}
		case "msg_panic":
			panic("test")
		}
		return schema.Receipt{Stream: "VERSIVE", Sequence: 7}, nil
	}}, tracing)

	const all = "read verify normalize publish"
	route := "POST " + webhookPath
	for _, test := range []struct {
		request request
		answer  string
		spans   string // in the order of their ends, without the request's own
		name    string
		failed  string // the steps that failed, and "request" after a 5xx
	}{
		{signed(t, "msg_1", event("")), "200 stored", all, route, ""},
		{signed(t, "msg_2", "{"), "202 quarantined malformed", all, route, "normalize"},
		{signed(t, "msg_full", event("")), "503 unavailable full", all, route, "publish request"},
		{signed(t, "msg_panic", event("")), "503 unavailable panic", all, route, "request"},
		{signed(t, "msg_3", event("")).with("Svix-Signature", "v1,x"), "401 unauthorized signature", "read verify", route, "verify"},
		{signed(t, "msg_4", event("")).sending("{").cutOff(), "400 bad_request body_cut_short", "read", route, "read"},
		{signed(t, "msg_5", event("")).to("POST /elsewhere HTTP/1.1"), "404 not_found path", "", "POST", ""},
		{signed(t, "msg_6", event("")).to("BREW " + webhookPath + " HTTP/1.1"), "405 method_not_allowed method", "", "HTTP " + webhookPath, ""},
	} {
		r.logs.take(t)
		a := exchange(t, r.address, test.request)
		var line logLine
		embeddedtest.Await(t, "a log line", func() bool {
			lines, _ := r.logs.take(t)
			if len(lines) == 1 {
				line = lines[0]
			}
			return len(lines) == 1
		})
		if got := a.summary(line); got != test.answer {
			t.Errorf("answered %s, want %s", got, test.answer)
		}
		spans := take(t, recorder, len(strings.Fields(test.spans))+1)
		root := spans[len(spans)-1]
		var names, failed []string
		for _, s := range spans {
			name := s.Name()
			if s == root {
				name = "request"
			} else {
				names = append(names, name)
				if s.Parent().SpanID() != root.SpanContext().SpanID() {
					t.Errorf("%s: %s is not a child of the request's span", test.answer, name)
				}
			}
			if s.Status().Code == codes.Error {
				failed = append(failed, name)
			}
			if s.SpanContext().TraceID().String() != line.TraceID {
				t.Errorf("%s: %s is in another trace than the log line", test.answer, name)
			}
		}
		got := []string{strings.Join(names, " "), root.Name(), strings.Join(failed, " ")}
		if diff := cmp.Diff([]string{test.spans, test.name, test.failed}, got); diff != "" {
			t.Errorf("%s: spans, name and failures (-want +got):\n%s", test.answer, diff)
		}
		if root.Parent().IsValid() || root.SpanKind() != trace.SpanKindServer {
			t.Errorf("%s: the request's span is %v below %v", test.answer, root.SpanKind(), root.Parent())
		}
		about := attributes(root)
		if about["versive_ingress.outcome"] != line.Outcome || about["versive_ingress.reason"] != line.Reason ||
			about["messaging.message.id"] != line.ID || about["http.response.status_code"] != fmt.Sprint(a.status) {
			t.Errorf("%s: the span has %v, the log %+v", test.answer, about, line)
		}
		if test.spans == all {
			publishing := spans[3]
			if publishing.SpanKind() != trace.SpanKindProducer || !publishing.SpanContext().Equal(published) {
				t.Errorf("%s: the publisher did not get the context of the publish span", test.answer)
			}
		}
	}
}

// The caller determines neither the trace ID nor what is sampled. A verified
// request is linked to the caller's span.
func TestTraceparentIsNotTrusted(t *testing.T) {
	t.Parallel()
	tracing, recorder := traced()
	r := newHarness(t, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
		return schema.Receipt{Stream: "VERSIVE", Sequence: 7}, nil
	}}, tracing)
	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	called := func(traceparent string) request {
		return signed(t, "msg_1", event("")).plus("Traceparent: "+traceparent, "Tracestate: vendor=text", "Baggage: a=text")
	}
	for _, test := range []struct {
		name    string
		request request
		spans   int
		linked  bool
	}{
		{"sampled", called("00-" + traceID + "-" + spanID + "-01"), 5, true},
		{"not sampled", called("00-" + traceID + "-" + spanID + "-00"), 5, true},
		{"malformed", called("00-" + traceID + "-0-01"), 5, false},
		{"twice", called("00-" + traceID + "-" + spanID + "-01").plus("Traceparent: x"), 5, true},
		{"forged", called("00-"+traceID+"-"+spanID+"-01").with("Svix-Signature", "v1,x"), 3, false},
	} {
		exchange(t, r.address, test.request)
		spans := take(t, recorder, test.spans)
		root := spans[len(spans)-1]
		if root.Parent().IsValid() || root.SpanContext().TraceID().String() == traceID {
			t.Errorf("%s: the caller determined the trace ID", test.name)
		}
		links := root.Links()
		if !test.linked {
			if len(links) != 0 {
				t.Errorf("%s: linked to %v", test.name, links)
			}
			continue
		}
		if len(links) != 1 || links[0].SpanContext.TraceID().String() != traceID || links[0].SpanContext.SpanID().String() != spanID {
			t.Errorf("%s: linked to %v", test.name, links)
		}
		if slices.ContainsFunc(links, func(l sdktrace.Link) bool { return l.SpanContext.TraceState().Len() > 0 }) {
			t.Errorf("%s: the link has the caller's trace state", test.name)
		}
	}
}

// The durations of a sampled request have its trace as their exemplar. A trace that
// is not sampled is in no backend, so it is no exemplar.
func TestExemplars(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		sampler sdktrace.Sampler
		want    int
	}{{sdktrace.AlwaysSample(), 5}, {sdktrace.NeverSample(), 0}} {
		r := newHarness(t, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
			return schema.Receipt{Stream: "VERSIVE", Sequence: 7}, nil
		}}, func(c *ingest.Config) {
			c.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSampler(test.sampler)).Tracer("test")
		})
		exchange(t, r.address, signed(t, "msg_1", event("")))
		lines, _ := r.logs.take(t)
		if len(lines) != 1 || lines[0].TraceID == "" {
			t.Fatalf("logged %+v", lines)
		}
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, family := range families {
			for _, m := range family.GetMetric() {
				for _, b := range m.GetHistogram().GetBucket() {
					for _, label := range b.GetExemplar().GetLabel() {
						n++
						if label.GetName() != "trace_id" || label.GetValue() != lines[0].TraceID {
							t.Errorf("%s has the exemplar %v, the trace is %s", family.GetName(), label, lines[0].TraceID)
						}
					}
				}
			}
		}
		if n != test.want {
			t.Errorf("%s: %d exemplars, want %d", test.sampler.Description(), n, test.want)
		}
	}
}
