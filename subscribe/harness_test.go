package subscribe_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" { // a consumer in a process of its own
		os.Exit(runChild(name))
	}
	os.Exit(embeddedtest.Run(m))
}

// A system is a broker with its streams, and a client of it.
type system struct {
	*embedded.Broker
	publisher *publish.Publisher
	js        jetstream.JetStream
	source    subscribe.Source
}

func newSystem(t testing.TB) *system {
	t.Helper()
	return newSystemIn(t, embedded.Config{})
}

func newSystemIn(t testing.TB, cfg embedded.Config) *system {
	t.Helper()
	return openSystem(t, embeddedtest.StartBroker(t, cfg), 1)
}

// openSystem creates the streams, with replicas.
func openSystem(t testing.TB, broker *embedded.Broker, replicas int) *system {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	publisher, err := publish.Open(ctx, publish.Config{
		URL:          broker.URL(),
		Stream:       "VERSIVE",
		Subject:      "versive",
		Replicas:     replicas,
		DedupeWindow: 48 * time.Hour,
		Timeout:      20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	js := embeddedtest.Connect(t, broker.URL())
	return &system{broker, publisher, js, subscribe.Source{JetStream: js}}
}

// store stores an event of the given interview and returns its sequence.
func (s *system) store(t testing.TB, id, study, interview string) uint64 {
	t.Helper()
	sequence, err := s.tryStore(id, study, interview)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

func (s *system) tryStore(id, study, interview string) (uint64, error) {
	m, err := schema.Normalize(id, fmt.Appendf(nil,
		`{"event_type":"interview.completed","interview":{"id":%q,"transcript":"marker"},"study":{"id":%q}}`, interview, study))
	if err != nil {
		return 0, err
	}
	receipt, err := s.publisher.Publish(context.Background(), m)
	return receipt.Sequence, err
}

// storeMany stores n events, msg_0 and so on, of one interview each.
func (s *system) storeMany(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		s.store(t, fmt.Sprint("msg_", i), "study", fmt.Sprint("interview_", i))
	}
}

func (s *system) erase(t testing.TB, subject string, sequence uint64) {
	t.Helper()
	eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: subject, Sequence: sequence}); err != nil {
		t.Fatal(err)
	}
}

// A record lists the events and erasures that were handled, in order.
type record struct {
	mu      sync.Mutex
	entries []string
}

func (r *record) add(entry string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entry)
}

func (r *record) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.entries...)
}

func (r *record) count(entry string) (n int) {
	for _, e := range r.list() {
		if e == entry {
			n++
		}
	}
	return n
}

// consumer returns a consumer that records the ids of events, and those of
// erasures with a minus in front.
func (r *record) consumer() subscribe.Consumer {
	return subscribe.Consumer{
		Durable: "test",
		Event: func(_ context.Context, event schema.Event, _ subscribe.Message) error {
			r.add(event.ID)
			return nil
		},
		Erasure: func(_ context.Context, erased schema.Subject, _ subscribe.Message) error {
			r.add("-" + erased.ID)
			return nil
		},
		Backoff: []time.Duration{20 * time.Millisecond},
	}
}

// start runs Consume until the test ends or stop is called, which returns its
// error.
func start(t testing.TB, source subscribe.Source, c subscribe.Consumer) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- source.Consume(ctx, c) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return embeddedtest.Receive(t, "Consume ends", ended)
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// isDone reports whether the consumer has handled all stored events, and at least
// one.
func (s *system) isDone(t testing.TB, durable string) bool {
	t.Helper()
	info, err := s.consumerInfo(t, "VERSIVE", durable)
	return err == nil && info.NumAckPending == 0 && info.NumPending == 0 && info.Delivered.Consumer > 0
}

// consumerInfo returns the state of a consumer. It does not wait long: a request gets no
// answer while the consumer has no leader, or while the broker starts.
func (s *system) consumerInfo(t testing.TB, stream, durable string) (*jetstream.ConsumerInfo, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	consumer, err := s.js.Consumer(ctx, stream, durable)
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

func (s *system) awaitDone(t testing.TB, durable string) {
	t.Helper()
	embeddedtest.Await(t, durable+" has handled everything", func() bool { return s.isDone(t, durable) })
}

// read returns the messages of a selection.
func read(t testing.TB, source subscribe.Source, sel subscribe.Selection) []subscribe.Message {
	t.Helper()
	var list []subscribe.Message
	for m, err := range source.Range(t.Context(), sel) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func sequences(list []subscribe.Message) []uint64 {
	var s []uint64
	for _, m := range list {
		s = append(s, m.Sequence)
	}
	return s
}
