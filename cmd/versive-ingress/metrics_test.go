package main

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

// names of the metrics that dashboards and alerts rely on.
var metricNames = []string{
	"requests_total", "request_duration_seconds_bucket", "stage_duration_seconds_bucket", "body_bytes_bucket",
	"inflight_bytes", "inflight_max_bytes", "connections_shed_total", "ready", "build_info", "log_lines_dropped_total",
	"publish_batch_events_bucket", "publish_queue_events", "broker_connected",
	"stream_messages", "stream_bytes", "stream_max_bytes",
	"stream_oldest_event_timestamp_seconds", "stream_last_event_timestamp_seconds", "stream_last_failure_timestamp_seconds",
	"stream_lost_events_total", "stream_lost_events_acknowledged_total", "stream_recreated_total", "stream_recreated_acknowledged_total",
	"store_bytes", "store_max_bytes", "quarantine_events", "dead_letter_events",
	"consumer_pending_events", "consumer_ack_pending_events", "consumer_oldest_pending_seconds", "consumer_stalled_seconds",
	"forward_connected", "forward_pending_events", "forward_oldest_pending_seconds", "forward_events_total",
}

// scrape returns the metrics in the format that accept asks for.
func scrape(t testing.TB, s config.Settings, accept string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.AdminListen+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	response, err := sender.Client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("/metrics answers %s (%v)", response.Status, err)
	}
	return string(text)
}

const openMetrics = "application/openmetrics-text; version=1.0.0"

// createConsumer creates a durable consumer that reads nothing.
func createConsumer(t *testing.T, brokerURL string) {
	t.Helper()
	js := embeddedtest.Connect(t, brokerURL)
	if _, err := js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
}

// Every metric is there, under a name and with a unit as Prometheus asks.
func TestMetricsLint(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.ForwardURL = "nats://127.0.0.1:1" // nothing listens there
	sys := run(t, s)
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_2", []byte("{"))
	createConsumer(t, sys.BrokerURL())
	var text string
	embeddedtest.Await(t, "all metrics are there", func() bool {
		text = scrape(t, s, "text/plain")
		missing := slices.DeleteFunc(slices.Clone(metricNames), func(name string) bool { return strings.Contains(text, "\nversive_ingress_"+name) })
		if len(missing) > 0 {
			t.Logf("no %s yet", missing)
		}
		return len(missing) == 0 && strings.Contains(text, "versive_ingress_stream_messages{stream=\"VERSIVE\"} 1\n")
	})
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "versive_ingress_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if !strings.HasSuffix(scrape(t, s, openMetrics), "# EOF\n") {
		t.Error("no OpenMetrics, which exemplars need")
	}
}

// metric returns the lines of /metrics that begin with a name.
func (s *system) metric(name string) string { return metric(s.settings, name) }

func metric(s config.Settings, name string) string {
	_, text := get("http://" + s.AdminListen + "/metrics")
	var lines strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+" ") || strings.HasPrefix(line, name+"{") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}
