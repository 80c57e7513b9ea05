package subscribe_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestConsumeSurvivesARestart(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	s := newSystemIn(t, cfg)
	s.source.JetStream = impatient(t, s.js)
	s.storeMany(t, 30)
	var got record
	c := got.consumer()
	c.AckWait = time.Second
	handle := c.Event
	half, goOn := make(chan struct{}), make(chan struct{})
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if event.ID == "msg_15" && m.Deliveries == 1 {
			close(half)
			<-goOn
		}
		return handle(ctx, event, m)
	}
	stop := start(t, s.source, c)
	embeddedtest.Receive(t, "half is handled", half)
	s.Stop()
	close(goOn)
	embeddedtest.StartBroker(t, cfg)
	s.awaitDone(t, c.Durable)
	if err := stop(); err != nil {
		t.Error(err)
	}
	for i := range 30 {
		id := fmt.Sprint("msg_", i)
		if n := got.count(id); n == 0 || n > 2 { // an acknowledgement that the restart has lost is a second delivery
			t.Errorf("%s was handled %d times: %v", id, n, got.list())
		}
	}
}

// impatient returns js with a short timeout. A broker that starts loses requests, so Consume
// repeats them after the timeout.
func impatient(t *testing.T, js jetstream.JetStream) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(js.Conn(), jetstream.WithDefaultTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Consume waits for a broker that is away when it begins.
func TestConsumeWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	s := newSystemIn(t, cfg)
	s.source.JetStream = impatient(t, s.js)
	s.storeMany(t, 3)
	s.Stop()
	var got record
	log := new(embeddedtest.Log)
	c := got.consumer()
	c.Logger = slog.New(slog.NewTextHandler(log, nil))
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- s.source.Consume(ctx, c) }()
	embeddedtest.Await(t, "it waits", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		default:
		}
		return strings.Contains(log.String(), "waiting for it")
	})
	embeddedtest.StartBroker(t, cfg)
	embeddedtest.Await(t, "everything is handled", func() bool { return len(got.list()) == 3 })
	cancel()
	if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
		t.Error(err)
	}
}

// Events are handled until the context ends, even if its deadline is near.
func TestConsumeUntilADeadline(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.source.Consume(soon{ctx}, got.consumer()) }()
	embeddedtest.Await(t, "everything is handled", func() bool { return len(got.list()) == 3 })
	cancel()
	if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
		t.Error(err)
	}
}

// soon is a context whose deadline always seems to be near, so that a slow
// machine does not reach it.
type soon struct{ context.Context }

func (soon) Deadline() (time.Time, bool) { return time.Now().Add(3 * time.Second), true }

// The broker closes a connection that does not take in within 10 s what it
// writes, and each event that it wrote would count as delivered. So it must not
// be asked for that much, however many free slots there are.
func TestSlowLinkForManyEvents(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	// In memory, for it takes long to sync that much.
	if _, err := s.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large.>"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	const n, rate = 5, 5 << 19 // bytes a second: one event takes 3 s, and all take 16 s
	for i := range n {
		m := largeEvent(t, fmt.Sprint("msg_", i), 8<<20)
		if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("large"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
	js := embeddedtest.Connect(t, slowLink(t, s.URL(), rate))
	var got record
	c := got.consumer()
	c.Concurrency = 64
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if m.Deliveries > 1 {
			t.Errorf("%s was redelivered", event.ID)
		}
		return handle(ctx, event, m)
	}
	start(t, subscribe.Source{JetStream: js, Stream: "LARGE", Subject: "large"}, c)
	embeddedtest.Await(t, "everything is handled", func() bool { return len(got.list()) >= n })
	if n := js.Conn().Stats().Reconnects; n > 0 {
		t.Errorf("the connection was lost %d times", n)
	}
}

// On a slow connection few events are fetched ahead: those that the broker has sent wait for
// one another, and are redelivered to another process when they have not arrived in time.
func TestSlowLinkForABacklog(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const n, rate = 64, 256 << 10 // bytes a second: one event takes 125 ms, and all take 8 s
	for i := range n {
		if _, err := s.publisher.Publish(t.Context(), largeEvent(t, fmt.Sprint("msg_", i), 32<<10)); err != nil {
			t.Fatal(err)
		}
	}
	var got record
	c := got.consumer()
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if sent := s.delivered(t, c.Durable); sent > len(got.list())+n/2 {
			t.Errorf("the broker has sent %d of %d events when %d are handled", sent, n, len(got.list()))
		}
		return handle(ctx, event, m)
	}
	start(t, subscribe.Source{JetStream: embeddedtest.Connect(t, slowLink(t, s.URL(), rate))}, c)
	embeddedtest.Await(t, "everything is handled", func() bool { return len(got.list()) >= n })
}

// A large event arrives on a slow connection, for a consumer and for a range. A
// range that took the event for lost would restart it again and again.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeLarge(t, 8<<20)
	const rate = 1 << 20 // bytes a second: the event takes 8 s
	t.Run("consume", func(t *testing.T) {
		t.Parallel()
		var got record
		c := got.consumer()
		handle := c.Event
		c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
			t.Logf("it was handled at delivery %d", m.Deliveries) // the first, unless the machine is slower still
			return handle(ctx, event, m)
		}
		start(t, subscribe.Source{JetStream: embeddedtest.Connect(t, slowLink(t, s.URL(), rate))}, c)
		s.awaitDone(t, c.Durable)
		if got.count("msg_large") == 0 {
			t.Error("it was not handled")
		}
	})
	t.Run("range", func(t *testing.T) {
		t.Parallel()
		source := subscribe.Source{JetStream: embeddedtest.Connect(t, slowLink(t, s.URL(), rate))}
		ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
		defer cancel()
		n := 0
		for _, err := range source.Range(ctx, subscribe.Selection{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("got %d events", n)
		}
	})
}

// Deliveries that do not arrive are not attempts: no event is dead-lettered before
// its handler was called.
func TestConsumeCountsNoDeliveries(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeLarge(t, 512<<10)
	const cuts = 8
	var connections atomic.Int64
	address := proxy(t, s.URL(), func(client io.Writer, broker io.Reader) {
		if connections.Add(1) <= cuts { // in the middle of the event
			broker = io.LimitReader(broker, 256<<10)
		}
		_, _ = io.Copy(client, broker)
	})
	var got record
	c := got.consumer()
	c.Attempts, c.AckWait = 2, 100*time.Millisecond
	deliveries := make(chan uint64, 10)
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		deliveries <- m.Deliveries
		return handle(ctx, event, m)
	}
	start(t, subscribe.Source{JetStream: embeddedtest.Connect(t, address)}, c)
	s.awaitDone(t, c.Durable)
	if letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead}); len(letters) != 0 {
		t.Fatalf("got %d dead letters", len(letters))
	}
	if n := embeddedtest.Receive(t, "it is handled", deliveries); n <= cuts {
		t.Errorf("it was handled at delivery %d, although %d were cut off", n, cuts)
	}
}

// largeEvent returns an event with a transcript of the given size.
func largeEvent(t testing.TB, id string, size int) schema.Message {
	t.Helper()
	m, err := schema.Normalize(id, fmt.Appendf(nil,
		`{"event_type":"interview.completed","interview":{"id":"i","transcript":"%s"},"study":{"id":"s"}}`, strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// storeLarge stores msg_large, with a transcript of the given size.
func (s *system) storeLarge(t testing.TB, size int) {
	t.Helper()
	if _, err := s.publisher.Publish(t.Context(), largeEvent(t, "msg_large", size)); err != nil {
		t.Fatal(err)
	}
}

// slowLink returns the address of a proxy that forwards so many bytes a second
// from the broker. It makes up for delays of a busy machine of up to a second.
func slowLink(t testing.TB, url string, rate int64) string {
	t.Helper()
	return proxy(t, url, func(client io.Writer, broker io.Reader) {
		const chunk = 64 << 10
		for due := time.Now(); ; {
			if _, err := io.CopyN(client, broker, chunk); err != nil {
				return
			}
			if due = due.Add(time.Duration(int64(time.Second) * chunk / rate)); time.Since(due) > time.Second {
				due = time.Now().Add(-time.Second)
			}
			time.Sleep(time.Until(due))
		}
	})
}

// proxy returns the address of a proxy to the broker in which forward copies
// what the broker sends. The connection ends with forward.
func proxy(t testing.TB, url string, forward func(client io.Writer, broker io.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			broker, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				client.Close()
				continue
			}
			_ = broker.(*net.TCPConn).SetReadBuffer(64 << 10) // what is buffered here counts as written
			go func() {
				_, _ = io.Copy(broker, client)
				broker.Close()
			}()
			go func() {
				forward(client, broker)
				client.Close()
				broker.Close()
			}()
		}
	}()
	return "nats://" + listener.Addr().String()
}
