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

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// An outcome is what a caller of Publish got.
type outcome struct {
	id      string
	receipt publish.Receipt
	err     error
}

// publishAll publishes messages at the same time and returns their outcomes.
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

// checkStored checks that every outcome is a success, that its receipt says
// where its message is, and that the stream holds nothing else. It returns how
// many were new.
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

// batched returns how many messages came in batches.
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

// More callers than a batch takes, and than JetStream takes in one: each gets
// the sequence of its own message.
func TestBatches(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	outcomes := publishAll(t, p, events(t, 0, 1500))
	if fresh := checkStored(t, js, outcomes); fresh != 1500 {
		t.Errorf("%d were new, want all", fresh)
	}
	if n := batched(t, js); n < 1000 {
		t.Errorf("only %d of 1500 messages came in batches", n)
	}
}

// After a batch the next one begins with the first that comes, for others are
// likely to follow. If none does, the one after that goes alone.
func TestBatchExpectsCompany(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
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
	await(t, "a single message begins a batch", func() bool { return grow(30) > 0 && grow(1) == 1 })
	if grow(1) != 0 {
		t.Error("nobody came, and yet the next one has waited for others")
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
			broker := startBroker(t, embedded.Config{})
			cfg := config(broker.URL())
			cfg.Mode, cfg.SyncAlways = test.mode, test.syncAlways
			checkStored(t, connect(t, broker.URL()), publishAll(t, openPublisher(t, cfg), events(t, 0, 60)))
			if n := batched(t, connect(t, broker.URL())); n > 0 != test.batches {
				t.Errorf("%d messages came in batches", n)
			}
		})
	}
}

// What makes the stream reject a whole batch costs only those who bring it.
func TestBatchWithOffenders(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(t *testing.T, js jetstream.JetStream, cfg publish.Config, m schema.Message){
		// By another ingress, so that this one has not seen the id.
		"id in the window": func(t *testing.T, _ jetstream.JetStream, cfg publish.Config, m schema.Message) {
			if _, err := openPublisher(t, cfg).Publish(t.Context(), m); err != nil {
				t.Error(err)
			}
		},
		"subject beyond the window": func(t *testing.T, js jetstream.JetStream, _ publish.Config, m schema.Message) {
			msg := &nats.Msg{Subject: m.Subject("versive"), Data: m.Data, Header: nats.Header{}}
			if _, err := js.PublishMsg(t.Context(), msg); err != nil {
				t.Error(err)
			}
		},
		// Its subject does not find it: only the broker knows that it was there.
		"id under another subject": func(t *testing.T, js jetstream.JetStream, _ publish.Config, m schema.Message) {
			if _, err := js.Publish(t.Context(), "versive.other", nil, jetstream.WithMsgID(m.ID)); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := startBroker(t, embedded.Config{})
			js := connect(t, broker.URL())
			cfg := config(broker.URL())
			p := openPublisher(t, cfg)
			messages := events(t, 0, 300)
			offender := messages[42]
			store(t, js, cfg, offender)

			fresh := 0
			sequences := map[uint64]bool{}
			for _, o := range publishAll(t, p, messages) {
				if o.err != nil {
					t.Errorf("%s: %v", o.id, o.err)
				}
				if o.receipt.Duplicate != (o.id == offender.ID) || o.receipt.Duplicate && o.receipt.Sequence != 1 {
					t.Errorf("%s: got %+v", o.id, o.receipt)
				}
				if !o.receipt.Duplicate {
					fresh++
				}
				sequences[o.receipt.Sequence] = true
			}
			if n := len(stored(t, js, "VERSIVE")); fresh != 299 || n != 300 || len(sequences) != 300 {
				t.Errorf("%d were new, %d are stored at %d sequences", fresh, n, len(sequences))
			}
		})
	}
}

// Resends are mixed in, of what is in flight and of what is stored.
func TestBatchWithResends(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
	p, other := openPublisher(t, config(broker.URL())), openPublisher(t, config(broker.URL()))
	var outcomes []outcome
	fresh := 0
	for round := range 5 {
		messages := events(t, round*150, 200) // 50 come again in the next round
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, by := range []*publish.Publisher{p, p, other} {
			wg.Go(func() {
				got := publishAll(t, by, messages)
				mu.Lock()
				defer mu.Unlock()
				outcomes = append(outcomes, got...)
			})
		}
		wg.Wait()
	}
	if fresh = checkStored(t, js, outcomes); fresh != 800 {
		t.Errorf("%d were new, want 800", fresh)
	}
	if n := batched(t, js); n < 100 {
		t.Errorf("only %d messages came in batches", n)
	}
}

// A resend is recognized by its id: its data does not go to the broker again.
func TestResendIsAskedFor(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	written, err := js.Conn().SubscribeSync("versive.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for i, empty := range []bool{false, true} {
		receipt, err := p.Publish(t.Context(), event(t, "msg_1"))
		if want := (publish.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: i > 0}); err != nil || receipt != want {
			t.Errorf("got %+v, %v; want %+v", receipt, err, want)
		}
		m, err := written.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if (len(m.Data) == 0) != empty {
			t.Errorf("attempt %d: %d bytes went to the broker", i+1, len(m.Data))
		}
	}
	if n := len(stored(t, js, "VERSIVE")); n != 1 {
		t.Errorf("the stream holds %d messages, want 1", n)
	}
}

// What was written before, and the stream does not know, is stored.
func TestResendIsNotKnown(t *testing.T) {
	t.Parallel()
	resendToNewStream(t, config(startBroker(t, embedded.Config{}).URL()))
}

// resendToNewStream resends an event to a stream that was deleted and created
// again.
func resendToNewStream(t *testing.T, cfg publish.Config) {
	t.Helper()
	cfg.Mode, cfg.Stream, cfg.Subject = publish.ModeBatch, "NEW", "new"
	p := openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, cfg.URL).DeleteStream(t.Context(), cfg.Stream); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"msg_1", "msg_2"} {
		var receipt publish.Receipt
		await(t, id+" is stored", func() (ok bool) {
			var err error
			receipt, err = p.Publish(t.Context(), event(t, id))
			return err == nil
		})
		if want := (publish.Receipt{Stream: cfg.Stream, Sequence: uint64(i + 1)}); receipt != want {
			t.Errorf("%s: got %+v, want %+v", id, receipt, want)
		}
	}
}

// Large messages go alone, and do not hold up small ones.
func TestBatchWithLargeMessages(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
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

// JetStream takes 50 open batches; somebody else has them all.
func TestTooManyBatches(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
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

// A batch that does not fit whole fits in part.
func TestBatchInFullStream(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	js := connect(t, broker.URL())
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
		t.Errorf("%d are stored, %d were refused", n, full)
	}
}

// The broker stops and comes back, again and again, while batches are written.
func TestBrokerRestartsDuringBatches(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	start := func() *embedded.Broker {
		broker, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: address})
		if err != nil {
			t.Error(err)
		}
		return broker
	}
	broker := start()
	cfg := config(broker.URL())
	cfg.Timeout = 10 * time.Second // of one try
	p := openPublisher(t, cfg)
	js := connect(t, broker.URL())

	const callers, each = 100, 20
	outcomes := make([][]outcome, callers)
	var done atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		messages := events(t, c*each, each)
		wg.Go(func() {
			for _, m := range messages {
				outcomes[c] = append(outcomes[c], publishAgain(t, p, m))
				done.Add(1)
			}
		})
	}
	for i := range int64(3) {
		await(t, "some are stored", func() bool { return done.Load() > i*callers*each/4 })
		broker.Stop()
		broker = start()
	}
	wg.Wait()
	checkStored(t, js, slices.Concat(outcomes...))
	broker.Stop()
}

// publishAgain publishes m until it is stored, as the sender does.
func publishAgain(t *testing.T, p *publish.Publisher, m schema.Message) outcome {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		receipt, err := p.Publish(t.Context(), m)
		if err == nil || time.Now().After(deadline) {
			return outcome{m.ID, receipt, err}
		}
	}
}
