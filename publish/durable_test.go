package publish_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// One check per commit, after the commit's acknowledgement, confirms all its messages.
func TestDurableIsCheckedAfterEachCommit(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	registry := prometheus.NewRegistry()
	cfg := config(broker.URL())
	cfg.Metrics = registry
	var mu sync.Mutex
	var checks, checked uint64
	cfg.Durable = func(bool) error {
		mu.Lock()
		defer mu.Unlock()
		checks++
		s, err := js.Stream(t.Context(), "VERSIVE")
		if err == nil {
			checked = s.CachedInfo().State.LastSeq
		}
		return err
	}
	p := openPublisher(t, cfg)
	for i, n := range []int{1, 600, 1} {
		for _, o := range publishAll(t, p, events(t, 1000*i, n)) {
			if o.err != nil || o.receipt.Sequence > checked {
				t.Errorf("got %+v when the checks had followed %d", o, checked)
			}
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "versive_ingress_publish_batch_events" {
			if commits := family.GetMetric()[0].GetHistogram().GetSampleCount(); checks != commits {
				t.Errorf("%d checks of %d commits", checks, commits)
			}
			return
		}
	}
	t.Error("no metric of the commits")
}

// Nothing by which a message can be confirmed confirms it while the check fails.
func TestNotDurable(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	var fails atomic.Bool
	cfg := config(broker.URL())
	cfg.Durable = func(bool) error {
		if fails.Load() {
			return errors.New("the disk has failed")
		}
		return nil
	}
	p, other := openPublisher(t, cfg), openPublisher(t, cfg) // the other does not know the ids
	alone, batch, distant, moved := events(t, 0, 1), events(t, 1, 300), events(t, 1000, 1), events(t, 2000, 1)
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: distant[0].Subject("versive"), Header: nats.Header{}}); err != nil { // beyond the window
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "versive.other", nil, jetstream.WithMsgID(moved[0].ID)); err != nil { // only the window knows it
		t.Fatal(err)
	}
	fails.Store(true)
	var outcomes []outcome
	outcomes = append(outcomes, publishAll(t, p, alone)...)
	outcomes = append(outcomes, publishAll(t, p, append(batch, batch[:50]...))...) // the last are joined
	outcomes = append(outcomes, publishAll(t, p, batch[:50])...)                   // the window knows them
	outcomes = append(outcomes, publishAll(t, other, batch)...)                    // they make the stream reject batches
	outcomes = append(outcomes, publishAll(t, p, distant)...)
	outcomes = append(outcomes, publishAll(t, p, moved)...)
	for _, o := range outcomes {
		wantReason(t, o.err, "unreachable")
	}
	if p.Ready() == nil {
		t.Error("the publisher is ready")
	}

	fails.Store(false)
	for _, o := range publishAll(t, p, append(alone, batch...)) {
		if o.err != nil || !o.receipt.Duplicate {
			t.Errorf("got %+v, want a duplicate", o)
		}
	}
}
