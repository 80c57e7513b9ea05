package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestConsumeHandlesEachOnce(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 7} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.storeMany(t, 50)
			var got record
			c := got.consumer()
			c.Concurrency = concurrency
			stop := start(t, s.source, c)
			s.awaitDone(t, c.Durable)
			s.store(t, "msg_50", "study", "interview") // and later events
			embeddedtest.Await(t, "it is handled", func() bool { return got.count("msg_50") == 1 })
			s.awaitDone(t, c.Durable)
			if err := stop(); err != nil {
				t.Error(err)
			}
			ids := got.list()
			if len(ids) != 51 || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != 51 {
				t.Errorf("got %d events: %v", len(ids), ids)
			}

			// Handled events are not redelivered.
			stop = start(t, s.source, c)
			s.store(t, "msg_51", "study", "interview")
			embeddedtest.Await(t, "it is handled", func() bool { return got.count("msg_51") > 0 })
			s.awaitDone(t, c.Durable)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"msg_51"}, got.list()[51:]); diff != "" {
				t.Errorf("after a restart (-want +got)\n%s", diff)
			}
		})
	}
}

// An event that was not handled is redelivered, after the pause of its attempt.
func TestConsumeTriesAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	var times []time.Time
	c := got.consumer()
	c.Backoff = []time.Duration{10 * time.Millisecond, 100 * time.Millisecond}
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if event.ID == "msg_1" {
			times = append(times, time.Now())
			if m.Deliveries < 4 {
				return errors.New("not now")
			}
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if diff := cmp.Diff([]string{"msg_0", "msg_1", "msg_2"}, slices.Sorted(slices.Values(got.list()))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i, atLeast := range []time.Duration{10, 100, 100} {
		if pause := times[i+1].Sub(times[i]); pause < atLeast*time.Millisecond {
			t.Errorf("pause %d was %v, want at least %d ms", i, pause, atLeast)
		}
	}
}

// A handler may take longer than AckWait.
func TestConsumeWaitsForSlowHandlers(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	c := got.consumer()
	c.AckWait = 150 * time.Millisecond
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		time.Sleep(3 * c.AckWait)
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if diff := cmp.Diff([]string{"msg_0", "msg_1", "msg_2"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Events that were fetched ahead of fast handlers are given back when the handlers become
// slow, and another process handles them.
func TestConsumeGivesBackWhatWaits(t *testing.T) {
	t.Parallel()
	const n = 300
	s := newSystem(t)
	s.storeMany(t, n)
	var got record
	handled := func() int { return len(slices.Compact(slices.Sorted(slices.Values(got.list())))) }
	slow, finish := make(chan struct{}), make(chan struct{})
	block := sync.OnceFunc(func() {
		close(slow)
		<-finish
	})
	c := got.consumer()
	c.AckWait = 3 * time.Second
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if s.delivered(t, c.Durable) > len(got.list())+2 { // some were fetched ahead
			block()
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	embeddedtest.Receive(t, "events are fetched ahead", slow)
	c.Event = handle
	start(t, s.source, c)
	embeddedtest.Await(t, "another process handles all others", func() bool { return handled() == n-1 })
	close(finish)
	embeddedtest.Await(t, "the slow handler returns", func() bool { return handled() == n })
	s.awaitDone(t, c.Durable)
}

func TestConsumeBoundsConcurrency(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 40)
	var got record
	var running, most atomic.Int64
	all := make(chan struct{}) // closed when five run
	reached := sync.OnceFunc(func() { close(all) })
	c := got.consumer()
	c.Concurrency = 5
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		n := running.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n >= 5 {
			reached()
		}
		select {
		case <-all:
		case <-time.After(embeddedtest.Timeout / 2):
		}
		time.Sleep(5 * time.Millisecond)
		running.Add(-1)
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if got := most.Load(); got != 5 {
		t.Errorf("at most %d ran concurrently, want 5", got)
	}
}

// When its context ends, Consume fetches nothing more, waits for the handler that
// runs, and acknowledges its event.
func TestConsumeStopsGracefully(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 2)
	var got record
	c := got.consumer()
	begun, finish := make(chan struct{}), make(chan struct{})
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		close(begun)
		<-finish
		if ctx.Err() != nil {
			t.Error("the handler's context has ended")
		}
		return handle(ctx, event, m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.source.Consume(ctx, c) }()
	embeddedtest.Receive(t, "the handler runs", begun)
	cancel()
	select {
	case err := <-ended:
		t.Fatalf("ended before the handler: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"msg_0"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	c = got.consumer()
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if diff := cmp.Diff([]string{"msg_0", "msg_1"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The context of a handler that runs beyond Grace ends, and Consume returns an
// error.
func TestConsumeGrace(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	c := got.consumer()
	c.Grace = 50 * time.Millisecond
	begun := make(chan struct{})
	c.Event = func(ctx context.Context, _ schema.Event, _ subscribe.Message) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	stop := start(t, s.source, c)
	embeddedtest.Receive(t, "the handler runs", begun)
	if err := stop(); err == nil || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("got %v", err)
	}
	if s.isDone(t, c.Durable) {
		t.Error("the event counts as handled")
	}
}

func TestConsumeErrors(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var got record
	for name, test := range map[string]struct {
		set  func(*subscribe.Source, *subscribe.Consumer)
		want string
	}{
		"no name":              {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Durable = "" }, "name"},
		"name with a dot":      {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Durable = "a.b" }, `"a.b"`},
		"no handler":           {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Event = nil }, "handler for events"},
		"no erasure handler":   {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Erasure = nil }, "handler for erasures"},
		"subject and filter":   {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Subject, c.Filter.StudyID = "versive.>", "s" }, "one of them"},
		"concurrency below 0":  {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Concurrency = -1 }, "negative"},
		"attempts below 0":     {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Attempts = -1 }, "negative"},
		"ack wait below 0":     {func(_ *subscribe.Source, c *subscribe.Consumer) { c.AckWait = -1 }, "negative"},
		"pause of none":        {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Backoff = []time.Duration{0} }, "Backoff"},
		"no stream":            {func(s *subscribe.Source, _ *subscribe.Consumer) { s.Stream = "ELSEWHERE" }, "ELSEWHERE"},
		"subject of elsewhere": {func(_ *subscribe.Source, c *subscribe.Consumer) { c.Subject = "other.>" }, "no event can match"},
	} {
		t.Run(name, func(t *testing.T) {
			source, c := s.source, got.consumer()
			test.set(&source, &c)
			err := source.Consume(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	for name, remove := range map[string]func(js jetstream.JetStream) error{
		"consumer deleted": func(js jetstream.JetStream) error {
			return js.DeleteConsumer(context.Background(), "VERSIVE", "test")
		},
		"connection closed": func(js jetstream.JetStream) error { js.Conn().Close(); return nil },
		"stream deleted":    func(js jetstream.JetStream) error { return js.DeleteStream(context.Background(), "VERSIVE") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			ended := make(chan error, 1)
			go func() { ended <- s.source.Consume(t.Context(), got.consumer()) }()
			s.storeMany(t, 1)
			s.awaitDone(t, "test")
			if err := remove(s.js); err != nil {
				t.Fatal(err)
			}
			if embeddedtest.Receive(t, "Consume ends", ended) == nil {
				t.Error("no error")
			}
		})
	}
}

// A consumer with replicas handles events concurrently.
func TestConsumeWithReplicas(t *testing.T) {
	t.Parallel()
	const n = 100
	s := openSystem(t, embeddedtest.StartCluster(t, t.TempDir())[0], 3)
	s.storeMany(t, n)
	var got record
	c := got.consumer()
	c.Concurrency, c.AckWait = 8, embeddedtest.Timeout // a redelivery would be too late
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if len(got.list()) != n {
		t.Errorf("%d events were handled, want %d", len(got.list()), n)
	}
}
