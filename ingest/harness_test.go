package ingest_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

const (
	maxBody     = 256 << 10
	maxInflight = 1 << 20
)

// fake is a Publisher for failures that a broker cannot produce on demand.
type fake struct {
	publish func(context.Context, schema.Message) (schema.Receipt, error)
}

func (f fake) Publish(ctx context.Context, m schema.Message) (schema.Receipt, error) {
	return f.publish(ctx, m)
}

// A store is an embedded broker with a publisher, and a client to inspect the
// streams.
type store struct {
	ingest.Publisher
	js jetstream.JetStream
}

func newStore(t testing.TB) *store {
	t.Helper()
	broker := embeddedtest.StartBroker(t, embedded.Config{MaxPayload: maxBody + schema.MaxGrowth + 64<<10})
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	p, err := publish.Open(ctx, publish.Config{
		Options: []nats.Option{nats.InProcessServer(broker)},
		Stream:  "VERSIVE", Subject: "versive", Replicas: 1,
		DedupeWindow: 48 * time.Hour, Timeout: 15 * time.Second, SyncAlways: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &store{p, embeddedtest.Connect(t, broker.URL())}
}

// A state has the number of messages and the last sequence of both streams.
type state struct{ events, lastEvent, quarantined, lastQuarantined uint64 }

func (s *store) state(t testing.TB) state {
	t.Helper()
	var of [2]jetstream.StreamState
	for i, name := range [...]string{"VERSIVE", "VERSIVE_QUARANTINE"} {
		stream, err := s.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		of[i] = stream.CachedInfo().State
	}
	return state{of[0].Msgs, of[0].LastSeq, of[1].Msgs, of[1].LastSeq}
}

func (s *store) message(t testing.TB, stream string, sequence uint64) *jetstream.RawStreamMsg {
	t.Helper()
	of, err := s.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := of.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatalf("message %d of %s: %v", sequence, stream, err)
	}
	return m
}

// A harness is a handler behind a server, with its log and metrics.
type harness struct {
	handler  *ingest.Handler
	address  string
	logs     *logs
	registry *prometheus.Registry
}

func newHarness(t testing.TB, p ingest.Publisher, changes ...func(*ingest.Config)) *harness {
	t.Helper()
	r := &harness{logs: &logs{}, registry: prometheus.NewRegistry()}
	cfg := ingest.Config{
		Path:        webhookPath,
		Secrets:     []string{secret},
		Tolerance:   5 * time.Minute,
		MaxBody:     maxBody,
		MaxInflight: maxInflight,
		Publisher:   p,
		Logger:      slog.New(slog.NewJSONHandler(r.logs, nil)),
		Metrics:     r.registry,
		Now:         func() time.Time { return now },
	}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	if r.handler, err = ingest.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.handler.LogEverything()
	r.address = serve(t, r.handler, 16<<10)
	return r
}

// serve runs a server with the command's limits until the test ends.
func serve(t testing.TB, h http.Handler, maxHeader int) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, 0),
		// Without this, net/http itself answers OPTIONS * with 200.
		DisableGeneralOptionsHandler: true,
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		// Close would not wait for handlers, which may use what is cleaned up next.
		ctx, cancel := context.WithTimeout(context.Background(), embeddedtest.Timeout)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("requests are still in progress: %v", err)
		}
		wg.Wait()
	})
	return listener.Addr().String()
}

// logs collects log lines. It is safe for concurrent use.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// A logLine is a log line about a webhook.
type logLine struct {
	Level    string `json:"level"`
	ID       string `json:"id"`
	TraceID  string `json:"trace_id"`
	Outcome  string `json:"outcome"`
	Reason   string `json:"reason"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Bytes    int    `json:"bytes"`
	Error    string `json:"error"`
	LeftOut  int    `json:"left_out"`
}

// take returns the lines since the last call, parsed and as text.
func (l *logs) take(t testing.TB) (lines []logLine, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	text = l.buf.String()
	l.buf.Reset()
	for line := range strings.Lines(text) {
		var parsed logLine
		if err := json.Unmarshal([]byte(line), &parsed); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		lines = append(lines, parsed)
	}
	return lines, text
}

// metric returns the values of a metric by its label values, joined by spaces. The
// value of a histogram is its count.
func (r *harness) metric(t testing.TB, name string) map[string]float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, label := range m.GetLabel() { // sorted by name: outcome, reason
				labels = append(labels, label.GetValue())
			}
			values[strings.TrimSpace(strings.Join(labels, " "))] = m.GetCounter().GetValue() +
				m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func (r *harness) inflight(t testing.TB) float64 {
	t.Helper()
	return r.metric(t, "versive_ingress_inflight_bytes")[""]
}

// event returns a body that becomes an event, with members added to the
// interview's: `,"name":value`.
func event(more string) string {
	return fmt.Sprintf(`{"event_type":"interview.completed","interview":{"id":"interview_1"%s},"study":{"id":"study_1"}}`, more)
}

// eventOf returns a body of size bytes that becomes an event.
func eventOf(size int) string {
	return event(`,"transcript":"` + strings.Repeat("x", size-len(event(`,"transcript":""`))) + `"`)
}
