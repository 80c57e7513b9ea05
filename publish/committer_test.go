package publish_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// When the connection is lost, callers that wait for an answer immediately get an
// error, and a resend finds the message stored.
func TestConnectionIsLost(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	proxy := startProxy(t, broker)
	cfg := config(proxy.url())
	cfg.Timeout = time.Minute
	p := openPublisher(t, cfg)
	messages := events(t, 0, 8) // too few for a batch

	proxy.loseAnswers.Store(true)
	answered := make(chan []outcome)
	go func() { answered <- publishAll(t, p, messages) }()
	embeddedtest.Await(t, "all are stored", func() bool { return len(stored(t, js, "VERSIVE")) == len(messages) })
	proxy.cut()
	proxy.loseAnswers.Store(false)
	for _, o := range <-answered {
		wantReason(t, o.err, "unreachable")
	}

	var resent []outcome
	embeddedtest.Await(t, "publishing again succeeds", func() bool {
		resent = publishAll(t, p, messages)
		return !slices.ContainsFunc(resent, func(o outcome) bool { return o.err != nil })
	})
	checkStored(t, js, resent)
}

// All concurrent callers with the same id get the same outcome, but at most one of
// them a receipt of a new message.
func TestCallersShareAnID(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	proxy := startProxy(t, broker)
	cfg := config(proxy.url())
	cfg.Timeout = 2 * time.Second
	p := openPublisher(t, cfg)
	m := events(t, 0, 1)[0]

	proxy.loseAnswers.Store(true)
	for _, o := range publishAll(t, p, append(events(t, 0, 1), m, m, m)) {
		wantReason(t, o.err, "no_answer")
	}
	proxy.loseAnswers.Store(false)
	var resent []outcome
	embeddedtest.Await(t, "all have an answer", func() bool {
		resent = publishAll(t, p, append(events(t, 0, 1), m, m, m))
		return !slices.ContainsFunc(resent, func(o outcome) bool { return o.err != nil })
	})
	for _, o := range resent {
		if want := (schema.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: true}); o.err != nil || o.receipt != want {
			t.Errorf("got %+v, %v; want %+v", o.receipt, o.err, want)
		}
	}
}

// While the broker does not answer, the queue fills up. Callers that find it full get
// an error immediately, the others after the timeout.
func TestQueueIsFull(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	proxy := startProxy(t, broker)
	cfg := config(proxy.url())
	cfg.Timeout = 4 * time.Second // all must have arrived before the first times out
	p := openPublisher(t, cfg)
	messages := events(t, 0, 12_000)

	proxy.freeze.Lock()
	defer proxy.freeze.Unlock()
	proxy.loseRequests.Store(true) // when it is unfrozen, which is when the broker stops
	var full, late atomic.Int64
	var slowest atomic.Int64
	done := make(chan struct{})
	for _, m := range messages {
		go func() {
			defer func() { done <- struct{}{} }()
			started := time.Now()
			_, err := p.Publish(t.Context(), m)
			took := time.Since(started)
			e, ok := errors.AsType[*publish.Error](err)
			switch {
			case ok && e.Reason() == "overloaded":
				full.Add(1)
			case ok && (e.Reason() == "no_answer" || e.Reason() == "unreachable"): // a slow write ends the connection
				late.Add(1)
			default:
				t.Errorf("got %v", err)
			}
			for before := slowest.Load(); int64(took) > before && !slowest.CompareAndSwap(before, int64(took)); {
				before = slowest.Load()
			}
		}()
	}
	for range messages {
		<-done
	}
	if full.Load() == 0 || late.Load() == 0 {
		t.Errorf("%d were overloaded, %d had no answer", full.Load(), late.Load())
	}
	// nats.go closes a connection that does not answer after 15 s.
	if took := time.Duration(slowest.Load()); took > cfg.Timeout+8*time.Second {
		t.Errorf("one took %v with a timeout of %v", took, cfg.Timeout)
	}
}
