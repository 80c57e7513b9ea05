package publish_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// An outcome is the result of a call of Publish.
type outcome struct {
	id      string
	receipt schema.Receipt
	err     error
}

// publishAll publishes messages concurrently and returns their outcomes.
func publishAll(t *testing.T, p *publish.Publisher, messages []schema.Message) []outcome {
	t.Helper()
	outcomes := make([]outcome, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		wg.Go(func() {
			receipt, err := p.Publish(t.Context(), m)
			outcomes[i] = outcome{m.ID, receipt, err}
		})
	}
	wg.Wait()
	return outcomes
}

// events returns canonical events with the ids from, from+1, and so on.
func events(t *testing.T, from, n int) []schema.Message {
	t.Helper()
	messages := make([]schema.Message, n)
	for i := range messages {
		messages[i] = event(t, "msg_"+strconv.Itoa(from+i))
	}
	return messages
}

// checkStored checks that every outcome is a success with a correct receipt, and that
// the stream has no other messages. It returns the number of new ones.
func checkStored(t *testing.T, js jetstream.JetStream, outcomes []outcome) (fresh int) {
	t.Helper()
	ids := stored(t, js, "VERSIVE")
	distinct := map[string]bool{}
	for _, o := range outcomes {
		switch {
		case o.err != nil:
			t.Errorf("%s: %v", o.id, o.err)
			continue
		case o.receipt.Sequence < 1 || o.receipt.Sequence > uint64(len(ids)) || ids[o.receipt.Sequence-1] != o.id:
			t.Errorf("%s is not at %d", o.id, o.receipt.Sequence)
		case !o.receipt.Duplicate:
			fresh++
		}
		distinct[o.id] = true
	}
	if len(ids) != len(distinct) {
		t.Errorf("the stream holds %d messages, want %d", len(ids), len(distinct))
	}
	return fresh
}

// batched returns the number of messages that were stored in batches.
func batched(t *testing.T, js jetstream.JetStream) (n int) {
	t.Helper()
	s, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err == nil && m.Header.Get(jetstreamext.BatchIDHeader) != "" {
			n++
		}
	}
	return n
}

// With more callers than fit into a batch of the committer or of JetStream, each gets
// the sequence of its own message.
func TestBatches(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	outcomes := publishAll(t, p, events(t, 0, 1500))
	if fresh := checkStored(t, js, outcomes); fresh != 1500 {
		t.Errorf("%d were new, want all", fresh)
	}
	if n := batched(t, js); n < 1000 {
		t.Errorf("only %d of 1500 messages were stored in batches", n)
	}
}

// After a batch, the next message begins another batch, because others are likely to
// follow. If none does, the message after that is published alone.
func TestBatchPrediction(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	next := 0
	grow := func(n int) (inBatches int) {
		before := batched(t, js)
		for _, o := range publishAll(t, p, events(t, next, n)) {
			if o.err != nil {
				t.Fatal(o.err)
			}
		}
		next += n
		return batched(t, js) - before
	}
	embeddedtest.Await(t, "a single message begins a batch", func() bool { return grow(30) > 0 && grow(1) == 1 })
	if grow(1) != 0 {
		t.Error("the message after a batch of one was batched")
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode       publish.Mode
		syncAlways bool
		batches    bool
	}{
		{"", true, true},
		{"", false, false},
		{publish.ModeAuto, true, true},
		{publish.ModeAuto, false, false},
		{publish.ModeBatch, false, true},
		{publish.ModeSingle, true, false},
	} {
		t.Run(fmt.Sprintf("%q/%t", test.mode, test.syncAlways), func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			cfg := config(broker.URL())
			cfg.Mode, cfg.SyncAlways = test.mode, test.syncAlways
			checkStored(t, embeddedtest.Connect(t, broker.URL()), publishAll(t, openPublisher(t, cfg), events(t, 0, 60)))
			if n := batched(t, embeddedtest.Connect(t, broker.URL())); n > 0 != test.batches {
				t.Errorf("%d messages were stored in batches", n)
			}
		})
	}
}

// Large messages are published alone and do not delay small ones.
func TestBatchWithLargeMessages(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	messages := events(t, 0, 200)
	for i := range 20 {
		body := `{"event_type":"interview.completed","interview":{"id":"i","transcript":"` + strings.Repeat("x", 60<<10+i<<10) + `"},"study":{"id":"s"}}`
		m, err := schema.Normalize("msg_large_"+strconv.Itoa(i), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	if fresh := checkStored(t, js, publishAll(t, p, messages)); fresh != 220 {
		t.Errorf("%d were new, want 220", fresh)
	}
}

// JetStream allows 50 open batches; another client uses them all.
func TestTooManyBatches(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	for i := range 50 {
		b, err := jetstreamext.NewBatchPublisher(js)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add("versive.other."+strconv.Itoa(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	checkStored(t, js, publishAll(t, p, events(t, 0, 100)))
}

// Of a batch that does not fit into the stream, a part does.
func TestBatchInFullStream(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "VERSIVE", Subjects: []string{"versive.>"}, MaxMsgs: 100, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := openPublisher(t, config(broker.URL()))
	full := 0
	for _, o := range publishAll(t, p, events(t, 0, 300)) {
		if o.err == nil {
			continue
		}
		if e, ok := errors.AsType[*publish.Error](o.err); !ok || e.Reason() != "full" {
			t.Errorf("%s: %v, want full", o.id, o.err)
		}
		full++
	}
	if n := len(stored(t, js, "VERSIVE")); n != 100 || full != 200 {
		t.Errorf("%d are stored, %d were rejected", n, full)
	}
}

// The broker restarts repeatedly while batches are published.
func TestBrokerRestartsDuringBatches(t *testing.T) {
	t.Parallel()
	brokerCfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, brokerCfg)
	cfg := config(broker.URL())
	cfg.Timeout = 10 * time.Second // of an attempt
	p := openPublisher(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())

	const callers, each = 100, 20
	outcomes := make([][]outcome, callers)
	var done atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		messages := events(t, c*each, each)
		wg.Go(func() {
			for _, m := range messages {
				outcomes[c] = append(outcomes[c], publishUntilStored(t, p, m))
				done.Add(1)
			}
		})
	}
	for i := range int64(3) {
		embeddedtest.Await(t, "some are stored", func() bool { return done.Load() > i*callers*each/4 })
		broker.Stop()
		broker = embeddedtest.StartBroker(t, brokerCfg)
	}
	wg.Wait()
	checkStored(t, js, slices.Concat(outcomes...))
}

// publishUntilStored publishes m until it is stored, as the sender does.
func publishUntilStored(t *testing.T, p *publish.Publisher, m schema.Message) outcome {
	for deadline := time.Now().Add(embeddedtest.Timeout); ; time.Sleep(20 * time.Millisecond) {
		receipt, err := p.Publish(t.Context(), m)
		if err == nil || time.Now().After(deadline) {
			return outcome{m.ID, receipt, err}
		}
	}
}
