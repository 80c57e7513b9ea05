package publish_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// gather returns the values of the metrics by name and labels. The value of a
// histogram is its sum.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := strings.TrimPrefix(family.GetName(), "versive_ingress_")
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			values[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	registry := prometheus.NewRegistry()
	cfg := config(broker.URL())
	cfg.Metrics = registry
	p := openPublisher(t, cfg)

	before := gather(t, registry)
	for name, want := range map[string]float64{
		"broker_connected": 1, "publish_queue_events": 0, "publish_batch_events": 0,
		"stream_messages VERSIVE": 0, "stream_bytes VERSIVE": 0, "stream_max_bytes VERSIVE": 0, "stream_messages VERSIVE_QUARANTINE": 0,
	} {
		if got, ok := before[name]; !ok || got != want {
			t.Errorf("before the first event %s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"stream_oldest_event_timestamp_seconds VERSIVE", "stream_last_event_timestamp_seconds VERSIVE", "stream_messages VERSIVE_DEAD"} {
		if got, ok := before[name]; ok {
			t.Errorf("before the first event %s is %v, want nothing", name, got)
		}
	}

	const n = 100
	started := time.Now().Add(-time.Second)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := p.Publish(t.Context(), event(t, fmt.Sprint("msg_", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := p.Publish(t.Context(), event(t, "msg_0")); err != nil { // a duplicate, without a commit
		t.Fatal(err)
	}
	js := embeddedtest.Connect(t, broker.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, MaxBytes: 1 << 20, Discard: jetstream.DiscardNew}); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the streams have metrics", func() bool {
		m := gather(t, registry)
		return m["stream_messages VERSIVE"] == n && m["stream_max_bytes VERSIVE_DEAD"] == 1<<20
	})
	after := gather(t, registry)
	if after["publish_batch_events"] != n || after["publish_queue_events"] != 0 || after["stream_bytes VERSIVE"] <= 0 {
		t.Errorf("after %d events: %v", n, after)
	}
	oldest, last := after["stream_oldest_event_timestamp_seconds VERSIVE"], after["stream_last_event_timestamp_seconds VERSIVE"]
	if oldest < float64(started.Unix()) || oldest > last || last > float64(time.Now().Unix()+1) {
		t.Errorf("events were stored from %v to %v", oldest, last)
	}

	broker.Stop()
	embeddedtest.Await(t, "broker_connected is 0", func() bool { return gather(t, registry)["broker_connected"] == 0 })
	if got := gather(t, registry)["stream_messages VERSIVE"]; got != n {
		t.Errorf("while the broker is stopped, stream_messages is %v", got)
	}
}

// There are metrics while Open waits for the first connection.
func TestMetricsBeforeTheBroker(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	cfg := config("nats://127.0.0.1:1")
	cfg.Metrics = registry
	opened := make(chan error, 1)
	go func() {
		_, err := publish.Open(t.Context(), cfg)
		opened <- err
	}()
	embeddedtest.Await(t, "metrics", func() bool { got, ok := gather(t, registry)["broker_connected"]; return ok && got == 0 })
	select {
	case err := <-opened:
		t.Errorf("opened: %v", err)
	default:
	}
	t.Cleanup(func() { <-opened })
}
