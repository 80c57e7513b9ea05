package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// recorder is what this program has set OpenTelemetry up with, as one that
// consumes does. It records what the ingress has decided to.
var recorder = tracetest.NewSpanRecorder()

func init() {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(recorder),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
	))
}

// A consoleSpan is a span as the console exporter prints it.
type consoleSpan struct {
	Name        string
	SpanContext struct{ TraceID, SpanID string }
	Parent      struct{ TraceID, SpanID string }
}

// printedSpans returns the spans among the lines that a process has printed.
func printedSpans(t *testing.T, lines string) []consoleSpan {
	t.Helper()
	var spans []consoleSpan
	for line := range strings.Lines(lines) {
		var span consoleSpan
		if err := json.Unmarshal([]byte(line), &span); err != nil {
			t.Fatalf("neither a span nor a line of the log: %s", line)
		}
		if span.SpanContext.SpanID != "" {
			spans = append(spans, span)
		}
	}
	return spans
}

// The whole path, seen by all telemetry there is: two ingresses that trace and
// log everything, a consumer that does, and the commands. A webhook is one
// trace from the request to the consumer's handler. The content of an interview is
// nowhere in it, nor the secret.
func TestTelemetry(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	t.Setenv("INGRESS_LOG_LEVEL", "debug")
	t.Setenv("INGRESS_LOG_FORMAT", "json")
	t.Setenv("INGRESS_MAX_BODY", "64KiB")

	const marker = "m4rk3r"
	s := newSettings(t)
	s.Secrets = []string{"whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(marker, 5)))}
	process, printed := launch(t, "versive-ingress", s)
	awaitReady(t, s)
	away := withBroker(newSettings(t), s.NATSListen)
	away.Secrets = s.Secrets
	_, printedAway := launch(t, "versive-ingress", away)
	awaitReady(t, away)

	recorder.Reset()
	consumed := &embeddedtest.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	var consumer sync.WaitGroup
	js := embeddedtest.Connect(t, "nats://"+s.NATSListen)
	consumer.Go(func() {
		_ = subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: "telemetry",
			Event: func(_ context.Context, event schema.Event, _ subscribe.Message) error {
				if !bytes.Contains(event.Data, []byte(marker)) {
					t.Error("the marker did not come through: this test proves nothing")
				}
				if event.ID == "msg_dead" {
					return subscribe.ErrPermanent
				}
				return nil
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
			Logger:  slog.New(slog.NewJSONHandler(consumed, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
	})
	defer consumer.Wait()
	defer cancel()

	body := []byte(`{"event_type":"interview.completed","` + marker + `":1,"study":{"id":"study_1","title":"` + marker + `"},"interview":{"id":"interview_1",` +
		`"title":"` + marker + `","transcript":"` + marker + `","metadata":{"` + marker + `":"` + marker + `"},"parsed_conversation_json":[{"role":"user","content":"` + marker + `"}]}}`)
	post := func(s config.Settings, id string, body []byte, change func(*http.Request)) int {
		t.Helper()
		request := signed("http://"+s.Listen+s.Path, s.Secrets[0], id, body)
		request.Header.Set("User-Agent", marker)
		request.Header.Set("Tracestate", "vendor="+marker)
		request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if change != nil {
			change(request)
		}
		response, err := sender.Client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, step := range []struct {
		id     string
		body   []byte
		change func(*http.Request)
		want   int
	}{
		{"msg_1", body, nil, 200},
		{"msg_1", body, nil, 200},
		{"msg_dead", body, nil, 200},
		{"msg_malformed", body[:len(body)-9], nil, 202},
		{"msg_invalid", bytes.Replace(body, []byte(`"metadata":{`), []byte(`"metadata":"`+marker+`","x":{`), 1), nil, 202},
		{"msg_type", bytes.Replace(body, []byte("completed"), []byte(marker), 1), nil, 202},
		{"msg_forged", body, func(r *http.Request) { r.Header.Set("Svix-Signature", "v1,"+marker) }, 401},
		{"msg_secret", body, func(r *http.Request) { r.Header.Set("Svix-Signature", s.Secrets[0]) }, 401},
		{"msg_lost", body, func(r *http.Request) { r.URL.Path = "/" + marker; r.URL.RawQuery = marker }, 404},
		{"msg_method", body, func(r *http.Request) { r.Method = strings.ToUpper(marker) }, 405},
		{"msg_encoded", body, func(r *http.Request) { r.Header.Set("Content-Encoding", marker) }, 415},
		{"msg_large", append(slices.Clone(body), bytes.Repeat([]byte(" "), 64<<10)...), nil, 413},
		{"msg_id " + marker, body, nil, 400},
	} {
		if got := post(s, step.id, step.body, step.change); got != step.want {
			t.Errorf("%s is answered %d, want %d", step.id, got, step.want)
		}
	}
	embeddedtest.Await(t, "both events are consumed", func() bool { return len(recorder.Ended()) >= 2 })

	var commands strings.Builder
	for _, line := range []string{"quarantine list", "replay", "replay --dry-run", "erase --interview interview_1 --yes"} {
		cmd := exec.Command("versive-ingress", strings.Fields(line)...)
		cmd.Env = append(cmd.Environ(), "INGRESS_NATS_LISTEN="+s.NATSListen)
		cmd.Stderr = &commands
		if line != "replay" { // whose output is the events
			cmd.Stdout = &commands
		}
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	metrics := scrape(t, s, openMetrics) + scrape(t, s, "text/plain")
	end(t, process)
	embeddedtest.Await(t, "the broker is missed", func() bool { return post(away, "msg_2", body, nil) == 503 })
	metrics += scrape(t, away, openMetrics)
	embeddedtest.Await(t, "its trace", func() bool { return strings.Contains(printedAway.String(), `"Name":"POST /webhooks/versive"`) })

	spans := printedSpans(t, printed.String())
	checkTrace(t, spans, recorder.Ended(), "msg_1")
	for _, span := range spans {
		if span.SpanContext.TraceID == "0af7651916cd43dd8448eb211c80319c" {
			t.Error("the caller has named the trace")
		}
	}
	if !strings.Contains(metrics, `# {trace_id="`) {
		t.Error("no metric has an exemplar")
	}

	var handled []any
	for _, span := range tracetest.SpanStubsFromReadOnlySpans(recorder.Ended()) {
		handled = append(handled, span.Name, span.Attributes, span.Events, span.Status)
	}
	consumerSpans, err := json.Marshal(handled)
	if err != nil {
		t.Fatal(err)
	}
	forbidden := []string{marker, strings.ToUpper(marker), base64.StdEncoding.EncodeToString([]byte(marker)), strings.TrimPrefix(s.Secrets[0], "whsec_"), "whsec_"}
	for place, text := range map[string]string{
		"log and traces": printed.String(), "log and traces without a broker": printedAway.String(), "metrics": metrics,
		"consumer's log": consumed.String(), "consumer's traces": string(consumerSpans), "commands": commands.String(),
	} {
		if text == "" {
			t.Errorf("%s: there is no output", place)
		}
		for line := range strings.Lines(text) {
			if i := slices.IndexFunc(forbidden, func(f string) bool { return strings.Contains(line, f) }); i >= 0 {
				t.Errorf("%s: %q is in: %s", place, forbidden[i], line)
			}
		}
	}
}

// end ends a process in the ordinary way.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// checkTrace checks that the handling of an event belongs to the trace that
// began with the webhook, below the span that has published it.
func checkTrace(t *testing.T, printed []consoleSpan, handled []sdktrace.ReadOnlySpan, id string) {
	t.Helper()
	for _, span := range handled {
		if !slices.ContainsFunc(tracetest.SpanStubFromReadOnlySpan(span).Attributes, func(a attribute.KeyValue) bool {
			return a.Key == "messaging.message.id" && a.Value.AsString() == id
		}) {
			continue
		}
		trace := make(map[string]consoleSpan)
		for _, p := range printed {
			if p.SpanContext.TraceID == span.SpanContext().TraceID().String() {
				trace[p.Name] = p
			}
		}
		root := trace["POST /webhooks/versive"]
		for _, name := range []string{"read", "verify", "normalize", "publish"} {
			if p, ok := trace[name]; !ok || p.Parent.SpanID != root.SpanContext.SpanID {
				t.Errorf("%s is not below the request in %+v", name, trace)
			}
		}
		if len(trace) != 5 || span.Parent().SpanID().String() != trace["publish"].SpanContext.SpanID {
			t.Errorf("the handler's span is below %v in %+v", span.Parent(), trace)
		}
		return
	}
	t.Errorf("no span of a handler of %s", id)
}

// The standard error has no value of a variable that may be a secret, and nothing but
// the log.
func TestOddTelemetry(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@host:port")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "hunter2,authorization=%zzhunter2")
	s := newSettings(t)
	process, printed := launch(t, "versive-ingress", s)
	awaitReady(t, s)
	terminate(t, process)
	for line := range strings.Lines(printed.String()) {
		if !json.Valid([]byte(line)) || strings.Contains(line, "hunter2") {
			t.Errorf("printed: %s", line)
		}
	}
}
