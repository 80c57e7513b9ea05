package subscribe_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" { // a consumer in a process of its own
		os.Exit(runChild(name))
	}
	code := m.Run()
	// Goroutines of the server that outlive its shutdown, the second one sometimes.
	pool := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1")
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	if err := leaked(pool, flusher); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// leaked returns an error if goroutines are left. On a busy machine they take
// longer to end than goleak waits.
func leaked(ignored ...goleak.Option) error {
	for deadline := time.Now().Add(patience); ; {
		if err := goleak.Find(ignored...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
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
	return newSystemIn(t, embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
}

func newSystemIn(t testing.TB, cfg embedded.Config) *system {
	t.Helper()
	broker := startBroker(t, cfg)
	publisher, err := publish.Open(t.Context(), publish.Config{
		URL:          broker.URL(),
		Stream:       "VERSIVE",
		Subject:      "versive",
		Replicas:     1,
		DedupeWindow: 48 * time.Hour,
		Timeout:      20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	js := connect(t, broker.URL())
	return &system{broker, publisher, js, subscribe.Source{JetStream: js}}
}

// startBroker runs a broker until the test ends. The address of a broker that was
// stopped may stay in use briefly: a child that another test forks inherits the
// listener until it executes its program.
func startBroker(t testing.TB, cfg embedded.Config) (broker *embedded.Broker) {
	t.Helper()
	await(t, "the address is free", func() bool {
		var err error
		if broker, err = embedded.Start(t.Context(), cfg); err != nil && !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Cleanup(broker.Stop)
	return broker
}

func connect(t testing.TB, url string, options ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append(options, nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return js
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

// A logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
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
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// patience is how long anything may take before a test fails. It is generous, for a
// busy machine, and longer than the default AckWait, after which an event that was
// lost with a connection is redelivered.
const patience = 90 * time.Second

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting: %s", what)
		}
	}
}

// isDone reports whether the consumer has handled all stored events, and at least
// one.
func (s *system) isDone(t testing.TB, durable string) bool {
	t.Helper()
	consumer, err := s.js.Consumer(t.Context(), "VERSIVE", durable)
	if err != nil {
		return false
	}
	info := consumer.CachedInfo()
	return info.NumAckPending == 0 && info.NumPending == 0 && info.Delivered.Consumer > 0
}

func (s *system) awaitDone(t testing.TB, durable string) {
	t.Helper()
	await(t, durable+" has handled everything", func() bool { return s.isDone(t, durable) })
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

// freeAddress returns a free address on the loopback interface. Its port is below
// the ephemeral ones, and not one of another package's tests, so that it stays free
// until it is used, and while a broker is away.
func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.N(5000))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
}
