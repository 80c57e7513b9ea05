package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// storeInterviews stores n events of each of some interviews, in turn, with
// ids such as a_0.
func storeInterviews(t *testing.T, s *system, n int, interviews ...string) {
	t.Helper()
	for i := range n {
		for _, interview := range interviews {
			s.store(t, fmt.Sprint(interview, "_", i), "study", interview)
		}
	}
}

// requireOrder checks that the first time each event of an interview was
// handled comes in the order of the stream.
func requireOrder(t *testing.T, handled []string, n int, interviews ...string) {
	t.Helper()
	for _, interview := range interviews {
		var got []string
		for _, id := range handled {
			if strings.HasPrefix(id, interview+"_") && !slices.Contains(got, id) {
				got = append(got, id)
			}
		}
		for i := range n {
			if i >= len(got) || got[i] != fmt.Sprint(interview, "_", i) {
				t.Errorf("interview %s was handled in the order %v", interview, got)
				break
			}
		}
	}
}

// Each interview keeps its order, whatever fails, while others go on.
func TestConsumeOrdered(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 5, "a", "b", "c")
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered, c.Attempts = 8, true, 10_000
	c.Backoff = []time.Duration{50 * time.Millisecond}
	var mu sync.Mutex
	failures := map[string]int{"a_1": 2, "a_2": 1, "b_4": 3}
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if failures[event.ID]--; failures[event.ID] >= 0 {
			return errors.New("not now")
		}
		if event.ID == "a_1" && got.count("c_1") == 0 {
			return errors.New("not before c_1") // for ever, if interview c waits for a
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	ids := got.list()
	requireOrder(t, ids, 5, "a", "b", "c")
	if len(ids) != 15 {
		t.Errorf("handled %d times: %v", len(ids), ids)
	}
}

// A process that died has left events unfinished. The next one must not
// overtake them.
func TestConsumeOrderedAfterACrash(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 4, "a", "b")
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered, c.AckWait = 4, true, 300*time.Millisecond
	consumer, err := s.js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{
		Durable: c.Durable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: c.AckWait,
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(3) // and no word of it again
	if err != nil {
		t.Fatal(err)
	}
	for range batch.Messages() {
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	requireOrder(t, got.list(), 4, "a", "b")
}

// What a process has left when it ended is handled in the order of the stream
// too.
func TestConsumeOrderedAfterAnEnd(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 8, "a")
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered, c.AckWait = 8, true, time.Second
	failing := c
	failing.Backoff = []time.Duration{time.Hour}
	failing.Event = func(context.Context, schema.Event, subscribe.Message) error { return errors.New("not now") }
	stop := start(t, s.source, failing)
	await(t, "all are delivered", func() bool { return s.delivered(t, c.Durable) == 8 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	requireOrder(t, got.list(), 8, "a")
}

// What was lost on its way, with the connection, is not overtaken.
func TestConsumeOrderedAfterALoss(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: freeAddress(t)}
	s := newSystemIn(t, cfg)
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered, c.AckWait = 4, true, 3*time.Second
	start(t, s.source, c)
	storeInterviews(t, s, 1, "b")
	s.awaitDone(t, c.Durable)
	// Its requests are gone with the broker. Before it asks again, an event is
	// delivered to nobody.
	s.Stop()
	startBroker(t, cfg)
	await(t, "the next event is stored", func() bool {
		_, err := s.tryStore("a_0", "study", "a")
		return err == nil
	})
	consumer, err := s.js.Consumer(t.Context(), "VERSIVE", c.Durable)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.Next(jetstream.FetchMaxWait(time.Second)); err != nil {
		t.Logf("it was not lost: %v", err)
	}
	s.store(t, "a_1", "study", "a")
	s.awaitDone(t, c.Durable)
	requireOrder(t, got.list(), 2, "a")
}

// In order, too, what is given up makes room for the next.
func TestConsumeOrderedGivesUp(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 3, "a")
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered, c.Attempts = 3, true, 3
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		_ = handle(ctx, event, m)
		if event.ID == "a_1" {
			return errors.New("never")
		}
		return nil
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if want := []string{"a_0", "a_1", "a_1", "a_1", "a_2"}; !slices.Equal(got.list(), want) {
		t.Errorf("got %v, want %v", got.list(), want)
	}
	if letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead}); len(letters) != 1 {
		t.Errorf("got %d dead letters, want 1", len(letters))
	}
}

// A consumer that was deleted ends, even if an event waits to be tried again.
func TestConsumeOrderedEndsInAPause(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 1, "a")
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered = 2, true
	c.Backoff = []time.Duration{time.Hour}
	failed := make(chan struct{})
	c.Event = func(context.Context, schema.Event, subscribe.Message) error {
		close(failed)
		return errors.New("not now")
	}
	ended := make(chan error, 1)
	go func() { ended <- s.source.Consume(t.Context(), c) }()
	<-failed
	if err := s.js.DeleteConsumer(t.Context(), "VERSIVE", c.Durable); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

// What cannot be a dead letter yet holds up those behind it.
func TestConsumeOrderedWaitsForItsDeadLetter(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	storeInterviews(t, s, 3, "a")
	full := jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, MaxBytes: 1, Discard: jetstream.DiscardNew}
	if _, err := s.js.CreateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	var got record
	c := got.consumer()
	c.Concurrency, c.Ordered = 3, true
	handle, tried := c.Event, 0
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		_ = handle(ctx, event, m)
		if event.ID != "a_0" {
			return nil
		}
		if tried++; tried == 3 {
			full.MaxBytes = -1
			if _, err := s.js.UpdateStream(ctx, full); err != nil {
				t.Error(err)
			}
		}
		return subscribe.ErrPermanent
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if want := []string{"a_0", "a_0", "a_0", "a_1", "a_2"}; !slices.Equal(got.list(), want) {
		t.Errorf("got %v, want %v", got.list(), want)
	}
}

// A process that stops gives back what it has not begun, and the next one
// takes that up in order.
func TestConsumeOrderedAfterAStop(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const n = 24
	storeInterviews(t, s, n, "a")
	var got record
	for len(got.list()) < n && !t.Failed() {
		c := got.consumer()
		c.Concurrency, c.Ordered, c.AckWait = 8, true, 100*time.Millisecond
		before := len(got.list())
		stop := start(t, s.source, c)
		await(t, "something is handled", func() bool { return len(got.list()) > before+3 || len(got.list()) == n })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	requireOrder(t, got.list(), n, "a")
}

// What a broker delivers again because it was away is not handled beside, or
// behind, what is being handled.
func TestConsumeOrderedAcrossARestart(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: freeAddress(t)}
	s := newSystemIn(t, cfg)
	storeInterviews(t, s, 4, "a")
	var got record
	c := got.consumer()
	c.Grace = time.Second
	c.Concurrency, c.Ordered, c.AckWait = 8, true, time.Second
	handle := c.Event
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if event.Interview.ID == "a" {
			begun <- struct{}{}
			select {
			case <-goOn:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	<-begun
	s.Stop()
	time.Sleep(c.AckWait) // so that it is over when the broker is back
	startBroker(t, cfg)
	// What comes again comes before what is new.
	other, err := schema.Normalize("b_0", []byte(`{"event_type":"interview.completed","interview":{"id":"b"},"study":{"id":"study"}}`))
	if err != nil {
		t.Fatal(err)
	}
	await(t, "another event is stored", func() bool {
		_, err := s.publisher.Publish(t.Context(), other)
		return err == nil
	})
	await(t, "it is handled", func() bool { return got.count("b_0") == 1 })
	close(goOn)
	s.awaitDone(t, c.Durable)
	if want := []string{"b_0", "a_0", "a_1", "a_2", "a_3"}; !slices.Equal(got.list(), want) {
		t.Errorf("got %v, want %v", got.list(), want)
	}
}
