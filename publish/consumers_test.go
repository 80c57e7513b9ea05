package publish_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// consumerMetrics returns the metrics of consumers, without their prefix.
func consumerMetrics(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	metrics := make(map[string]float64)
	for key, value := range gather(t, registry) {
		if name, ok := strings.CutPrefix(key, "consumer_"); ok {
			metrics[name] = value
		}
	}
	return metrics
}

func openStream(t *testing.T, js jetstream.JetStream) jetstream.Stream {
	t.Helper()
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// A cluster does not list the consumers whose leaders do not answer. That is an error, and
// no list without them.
func TestConsumersWithoutALeader(t *testing.T) {
	t.Parallel()
	consumer := func(name string) any {
		return map[string]any{"stream_name": "VERSIVE", "name": name, "config": map[string]any{"durable_name": "b"}}
	}
	for what, answer := range map[string]map[string]any{
		"one server is away":     {"total": 2, "consumers": []any{consumer("b")}, "missing": []string{"a"}}, // to a request for the second, too
		"all of its servers are": {"total": 1, "consumers": []any{consumer("")}, "missing": []string{"b"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartMappedBroker(t, "$JS.API.CONSUMER.LIST.VERSIVE", func(jetstream.JetStream) any { return answer })
			openPublisher(t, config(broker.URL()))
			states, err := publish.ReadConsumers(t.Context(), openStream(t, embeddedtest.Connect(t, broker.URL())), 1000)
			if err == nil {
				t.Errorf("got %d consumers", len(states))
			}
		})
	}
}

// Metrics report how far durable consumers are, and no others. They follow a consumer
// that is deleted, and outlast a restart of the broker.
func TestConsumerMetrics(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())
	first := openPublisher(t, config(broker.URL()))
	for i := range 5 {
		if _, err := first.Publish(t.Context(), event(t, fmt.Sprint("msg_", i))); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(sequence uint64) time.Time {
		t.Helper()
		m, err := openStream(t, js).GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		return m.Time
	}
	create := func(c jetstream.ConsumerConfig) jetstream.Consumer {
		t.Helper()
		c.AckPolicy = jetstream.AckExplicitPolicy
		consumer, err := js.CreateConsumer(t.Context(), "VERSIVE", c)
		if err != nil {
			t.Fatal(err)
		}
		return consumer
	}
	take := func(c jetstream.Consumer, n int, acks ...uint64) {
		t.Helper()
		batch, err := c.Fetch(n)
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if meta, err := m.Metadata(); err != nil || !slices.Contains(acks, meta.Sequence.Stream) {
				continue
			}
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
	}
	take(create(jetstream.ConsumerConfig{Durable: "done"}), 5, 1, 2, 3, 4, 5)
	take(create(jetstream.ConsumerConfig{Durable: "gap"}), 4, 1, 3, 4) // has not acknowledged 2, and not received 5
	create(jetstream.ConsumerConfig{Durable: "filters", FilterSubjects: []string{"versive.*.*.*.*.msg_3", "versive.*.*.*.*.msg_4"}})
	create(jetstream.ConsumerConfig{Durable: "later", DeliverPolicy: jetstream.DeliverNewPolicy})
	until := time.Now().Add(time.Hour)
	create(jetstream.ConsumerConfig{Durable: "paused", PauseUntil: &until})
	create(jetstream.ConsumerConfig{InactiveThreshold: time.Hour}) // ephemeral

	registry := prometheus.NewRegistry()
	watching := config(broker.URL())
	watching.Metrics = registry
	openPublisher(t, watching)
	counts := map[string]float64{ // pending, ack pending
		"pending_events done": 0, "ack_pending_events done": 0,
		"pending_events gap": 1, "ack_pending_events gap": 1,
		"pending_events filters": 2, "ack_pending_events filters": 0,
		"pending_events later": 0, "ack_pending_events later": 0,
		"pending_events paused": 5, "ack_pending_events paused": 0,
	}
	oldest := map[string]time.Time{"done": {}, "gap": stored(2), "filters": stored(4), "later": {}, "paused": stored(1)}
	check := func(stage string) {
		t.Helper()
		got := consumerMetrics(t, registry)
		for name, want := range counts {
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s: %s is %v (%v), want %v", stage, name, value, ok, want)
			}
		}
		for name, at := range oldest {
			age, stalled := got["oldest_pending_seconds "+name], got["stalled_seconds "+name]
			switch {
			case at.IsZero() && age+stalled != 0:
				t.Errorf("%s: %s has acknowledged all, and is %v s old and stalled for %v s", stage, name, age, stalled)
			case !at.IsZero() && (age <= 0 || age > time.Since(at).Seconds()):
				t.Errorf("%s: the oldest event of %s is of %v, and %v s old", stage, name, at, age)
			case stalled > age || (stalled > 0) != (!at.IsZero() && name != "paused"):
				t.Errorf("%s: %s is stalled for %v s, its oldest event %v s old", stage, name, stalled, age)
			}
		}
		if want := len(counts) + 2*len(oldest); len(got) != want {
			t.Errorf("%s: got %d metrics, want %d: %v", stage, len(got), want, slices.Sorted(maps.Keys(got)))
		}
	}
	embeddedtest.Await(t, "the consumers have metrics", func() bool { return len(consumerMetrics(t, registry)) > 0 })
	check("first")

	// After a restart the figures are read again.
	before := consumerMetrics(t, registry)["oldest_pending_seconds gap"]
	broker.Stop()
	check("while the broker is stopped")
	embeddedtest.StartBroker(t, cfg)
	embeddedtest.Await(t, "the age grows", func() bool { return consumerMetrics(t, registry)["oldest_pending_seconds gap"] > before })
	check("after a restart")

	// The oldest event is erased, and a consumer is deleted.
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: event(t, "msg_3").Subject("versive"), Sequence: 4}); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), "VERSIVE", "paused"); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the deleted consumer has no metrics", func() bool {
		_, found := consumerMetrics(t, registry)["pending_events paused"]
		return !found
	})
	delete(counts, "pending_events paused")
	delete(counts, "ack_pending_events paused")
	delete(oldest, "paused")
	counts["pending_events done"], counts["pending_events gap"], counts["pending_events later"] = 1, 2, 1 // the tombstone
	oldest["done"], oldest["filters"], oldest["later"] = stored(6), stored(5), stored(6)
	check("after an erasure and a deletion")
}

// Consumers beyond a limit have no metrics.
func TestConsumerMetricsAreBounded(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	registry := prometheus.NewRegistry()
	cfg := config(broker.URL())
	cfg.Metrics = registry
	openPublisher(t, cfg)
	for i := range 110 {
		if _, err := js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: fmt.Sprintf("c%03d", i), AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
	}
	embeddedtest.Await(t, "100 consumers have metrics", func() bool { return len(consumerMetrics(t, registry)) == 4*100 })
	if _, ok := consumerMetrics(t, registry)["pending_events c099"]; !ok {
		t.Error("the first 100 are not those that have metrics")
	}
	states, err := publish.ReadConsumers(t.Context(), openStream(t, js), 1000)
	if err != nil || len(states) != 110 {
		t.Errorf("%d consumers, %v; want 110", len(states), err)
	}
}

// A consumer is stalled while it could acknowledge an event, and does not.
func TestStalled(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	const h = time.Hour
	for name, test := range map[string]struct {
		oldest, lastAck, pausedUntil *time.Time
		paused                       bool
		want                         time.Duration
	}{
		"idle":                       {lastAck: ago(48 * h)},
		"stopped":                    {oldest: ago(5 * h), lastAck: ago(6 * h), want: 5 * h},
		"slow":                       {oldest: ago(5 * h), lastAck: ago(time.Minute), want: time.Minute},
		"never acknowledged":         {oldest: ago(5 * h), want: 5 * h},
		"created after the events":   {oldest: ago(300 * h), want: 100 * h},
		"paused":                     {oldest: ago(5 * h), lastAck: ago(6 * h), pausedUntil: ago(-h), paused: true},
		"was paused until just now":  {oldest: ago(5 * h), lastAck: ago(6 * h), pausedUntil: ago(h), want: h},
		"stored while it is stopped": {oldest: ago(time.Second), lastAck: ago(100 * h), want: time.Second},
		"the clock was set back":     {oldest: ago(-h)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := publish.ConsumerState{ConsumerInfo: &jetstream.ConsumerInfo{TimeStamp: now, Created: now.Add(-100 * h), Paused: test.paused}}
			if test.oldest != nil {
				state.Oldest = *test.oldest
			}
			state.AckFloor.Last, state.Config.PauseUntil = test.lastAck, test.pausedUntil
			if got := state.Stalled(); got != test.want {
				t.Errorf("stalled for %v, want %v", got, test.want)
			}
		})
	}
}
