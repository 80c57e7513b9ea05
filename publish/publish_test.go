package publish_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

func TestMain(m *testing.M) { os.Exit(embeddedtest.Run(m)) }

func config(url string) publish.Config {
	return publish.Config{
		URL:          url,
		Stream:       "VERSIVE",
		Subject:      "versive",
		Replicas:     1,
		DedupeWindow: 48 * time.Hour,
		Timeout:      embeddedtest.Timeout,
		SyncAlways:   true, // as package embedded does
	}
}

func openPublisher(t *testing.T, cfg publish.Config) *publish.Publisher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	p, err := publish.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// event returns a canonical event with the given svix-id.
func event(t *testing.T, id string) schema.Message {
	t.Helper()
	m, err := schema.Normalize(id, []byte(`{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":"s"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// stored returns the message ids of a stream, in order.
func stored(t *testing.T, js jetstream.JetStream, stream string) []string {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	var ids []string
	for seq := max(state.FirstSeq, 1); seq <= state.LastSeq; seq++ {
		var m *jetstream.RawStreamMsg
		embeddedtest.Await(t, fmt.Sprint("message ", seq), func() bool { // a replica may lag
			m, err = s.GetMsg(t.Context(), seq)
			return !errors.Is(err, jetstream.ErrMsgNotFound)
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.Header.Get(jetstream.MsgIDHeader))
	}
	return ids
}

func TestPublishStoresOnce(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())

	quarantined := schema.Quarantine("msg_1", []byte("{"), &schema.Error{Reason: schema.Malformed, Detail: "is broken"},
		map[string][]string{"Svix-Id": {"msg_1"}})
	for _, test := range []struct {
		message schema.Message
		stream  string
		subject string
	}{
		{event(t, "msg_1"), "VERSIVE", "versive.interview.completed.s.i.msg_1"},
		{quarantined, "VERSIVE_QUARANTINE", "versive-quarantine.msg_1"},
	} {
		for _, duplicate := range []bool{false, true, true} {
			got, err := p.Publish(t.Context(), test.message)
			if want := (schema.Receipt{Stream: test.stream, Sequence: 1, Duplicate: duplicate}); err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		}
		s, err := js.Stream(t.Context(), test.stream)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetMsg(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != test.subject || string(m.Data) != string(test.message.Data) {
			t.Errorf("stored %s %s", m.Subject, m.Data)
		}
		for name, values := range test.message.Header {
			if m.Header.Get(name) != values[0] {
				t.Errorf("header %s is %q, want %q", name, m.Header.Get(name), values[0])
			}
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%s holds %d messages, want 1", test.stream, n)
		}
	}
}

// After the duplicate window, a resend is recognized by its subject.
func TestPublishAfterTheWindow(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())

	m := event(t, "msg_1")
	// The message has no id, so the window does not know it.
	if _, err := js.Publish(t.Context(), m.Subject("versive"), m.Data); err != nil {
		t.Fatal(err)
	}
	got, err := p.Publish(t.Context(), m)
	if want := (schema.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: true}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// Callers of two publishers publish the same ids concurrently, as when resends reach
// two ingresses behind a load balancer.
func TestPublishConcurrently(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	publishConcurrently(t, config(broker.URL()), 100, 4)
}

// publishConcurrently publishes each of n ids several times concurrently with two
// publishers. It checks that each is stored once, and that all receipts of an id have
// the same sequence, one of them as new.
func publishConcurrently(t *testing.T, cfg publish.Config, n, times int) {
	t.Helper()
	publishers := []*publish.Publisher{openPublisher(t, cfg), openPublisher(t, cfg)}
	var wg sync.WaitGroup
	receipts := make([][]schema.Receipt, n)
	for i := range n {
		m := event(t, fmt.Sprintf("msg_%d", i))
		receipts[i] = make([]schema.Receipt, times)
		for k := range times {
			wg.Go(func() {
				var err error
				if receipts[i][k], err = publishers[k%2].Publish(t.Context(), m); err != nil {
					t.Errorf("publishing %s: %v", m.ID, err)
				}
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}

	sequences := map[uint64]bool{}
	for i, of := range receipts {
		fresh := 0
		for _, r := range of {
			if !r.Duplicate {
				fresh++
			}
			if r.Sequence != of[0].Sequence {
				t.Errorf("id %d is at sequences %d and %d", i, of[0].Sequence, r.Sequence)
			}
		}
		if fresh > 1 || fresh == 0 && cfg.Replicas <= 1 { // a leader may be replaced before it answers
			t.Errorf("id %d was new %d times, want once", i, fresh)
		}
		sequences[of[0].Sequence] = true
	}
	ids := stored(t, embeddedtest.Connect(t, cfg.URL), cfg.Stream)
	if len(ids) != n || len(sequences) != n {
		t.Errorf("%d messages at %d sequences, want %d", len(ids), len(sequences), n)
	}
}

// A message is stored even if its caller has gone.
func TestPublishOutlivesItsCaller(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Publish(ctx, event(t, "msg_1")); err != nil {
		t.Error(err)
	}
}

func TestPublishLargest(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	if p.MaxMessage() != 9<<20 {
		t.Fatalf("largest message is %d bytes, want the broker's max_payload", p.MaxMessage())
	}
	body := `{"event_type":"interview.completed","interview":{"id":"i","transcript":"` + strings.Repeat("x", 8<<20) + `"},"study":{"id":"s"}}`
	m, err := schema.Normalize("msg_1", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, duplicate := range []bool{false, true} {
		got, err := p.Publish(t.Context(), m)
		if want := (schema.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: duplicate}); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

// Publish accepts neither dead letters, which consumers write, nor unknown kinds.
func TestPublishRejectsOtherKinds(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	dead := schema.DeadLetter(schema.Dead{Consumer: "c", ID: "msg_1"}, nil, nil)
	for _, m := range []schema.Message{dead, {Kind: 7}, {Kind: -1}} {
		_, err := p.Publish(t.Context(), m)
		wantReason(t, err, "refused")
	}
	embeddedtest.Await(t, "ready", func() bool { // a check of the streams may have failed meanwhile
		err := p.Ready()
		if err != nil && strings.Contains(err.Error(), "the last publish failed") {
			t.Fatalf("not ready after a rejected message: %v", err)
		}
		return err == nil
	})
}
