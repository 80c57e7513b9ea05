package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// An event that ends the process each time is dead-lettered, and the events that
// are in flight beside it are not.
func TestConsumeChargesACrashToOneEvent(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const events = 9
	s.storeMany(t, events)
	file := filepath.Join(t.TempDir(), "handled")
	lives := 0
	for done := false; !done; lives++ {
		child := startChild(t, "fatal", s.URL(), file, "")
		exited := make(chan struct{})
		go func() {
			_ = child.Wait()
			close(exited)
		}()
		embeddedtest.Await(t, "the process ends, or everything is handled", func() bool {
			select {
			case <-exited:
				return true
			default:
				done = s.isDone(t, "fatal")
				return done
			}
		})
		_ = child.Process.Kill()
		embeddedtest.Receive(t, "the process ends", exited)
	}
	var letters []string
	for _, m := range read(t, s.source, subscribe.Selection{Kind: schema.KindDead}) {
		letters = append(letters, m.ID+": "+schema.DecodeReason(m.Header))
	}
	want := []string{"msg_4: the process ended each of the 2 times that the event was handled alone"}
	if diff := cmp.Diff(want, letters); diff != "" {
		t.Errorf("dead letters (-want +got)\n%s", diff)
	}
	counts := done(t, "fatal", file)
	for i := range events {
		if id := fmt.Sprint("msg_", i); (counts[id] > 0) == (id == fatalEvent) {
			t.Errorf("%s was handled %d times", id, counts[id])
		}
	}
	if lives > 6 { // two beside the others, two alone, one that stores the dead letter, and one that dies early
		t.Errorf("it took %d processes", lives)
	}
}

// A panic is a failed attempt of one event, and nothing of the event is logged.
func TestConsumePanic(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 9)
	var got record
	var log embeddedtest.Log
	c := got.consumer()
	c.Concurrency, c.Attempts, c.Logger = 8, 2, slog.New(slog.NewTextHandler(&log, nil))
	c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
		got.add(event.ID)
		if event.ID == "msg_4" {
			panic(errors.New("cannot read " + string(event.Data)))
		}
		return nil
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	for i := range 9 {
		want := 1
		if i == 4 {
			want = 2
		}
		if id := fmt.Sprint("msg_", i); got.count(id) != want {
			t.Errorf("%s was handled %d times, want %d", id, got.count(id), want)
		}
	}
	letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
	if len(letters) != 1 || schema.DecodeReason(letters[0].Header) != "handler panicked with a value of type *errors.errorString" {
		t.Errorf("got %v", letters)
	}
	if text := log.String(); strings.Contains(text, "marker") || !strings.Contains(text, "TestConsumePanic") {
		t.Errorf("want the stack and nothing of the event in the log:\n%s", text)
	}
}

// A process resumes the counts of attempts of the last one.
func TestConsumeCountsAttemptsAcrossProcesses(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	var log embeddedtest.Log
	c := got.consumer()
	c.Attempts, c.Logger = 4, slog.New(slog.NewTextHandler(&log, nil))
	tried := make(chan struct{}, 10)
	c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
		got.add(event.ID)
		tried <- struct{}{}
		return errors.New("not now")
	}
	c.Backoff = []time.Duration{time.Millisecond, time.Millisecond, 200 * time.Millisecond}
	stop := start(t, s.source, c)
	for range 3 {
		embeddedtest.Receive(t, "it is handled", tried)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if got.count("msg_0") != 4 {
		t.Errorf("it was handled %d times, want 4", got.count("msg_0"))
	}
	if strings.Contains(log.String(), "alone") {
		t.Errorf("an event whose handler has failed is a suspect:\n%s", log.String())
	}
}

// After a rewind, an event has all of its attempts again.
func TestConsumeCountsAttemptsAnewAfterARewind(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	c := got.consumer()
	c.Attempts = 3
	fail, failures := make(chan struct{}, 10), 2 // each of which makes the handler fail
	for range failures {
		fail <- struct{}{}
	}
	failed := make(chan struct{}, 10)
	c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
		select {
		case <-fail:
			failed <- struct{}{}
			return errors.New("not now")
		default:
			got.add(event.ID)
			return nil
		}
	}
	stop := start(t, s.source, c)
	for range failures {
		embeddedtest.Receive(t, "the handler fails", failed)
	}
	if err := stop(); err != nil { // which records the attempts
		t.Fatal(err)
	}
	stop = start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.ResetConsumerToSequence(t.Context(), "VERSIVE", c.Durable, 1); err != nil {
		t.Fatal(err)
	}
	fail <- struct{}{}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if letters := s.letters(t); len(letters) != 0 || got.count("msg_0") != 2 {
		t.Errorf("handled %v, and %d dead letters", got.list(), len(letters))
	}
}

// While a suspect is handled, no other event is. Events that wait for it are left to
// another process if this one stops.
func TestConsumeHandlesSuspectsAlone(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 4)
	var got record
	c := got.consumer()
	c.Concurrency, c.Attempts, c.AckWait = 5, 1, time.Second // a slot for each event: those stored first may all wait for the suspect
	consumer, err := s.js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{
		Durable: c.Durable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: c.AckWait,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.Next(); err != nil { // msg_0, which is never acknowledged
		t.Fatal(err)
	}
	begun, finish := make(chan struct{}), make(chan struct{})
	c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
		got.add(event.ID)
		if event.ID == "msg_0" {
			close(begun)
			<-finish
		}
		return nil
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- s.source.Consume(ctx, c) }()
	embeddedtest.Receive(t, "the suspect is handled", begun)
	before := len(got.list())
	s.store(t, "msg_4", "study", "interview")
	embeddedtest.Await(t, "it is delivered", func() bool { return s.delivered(t, c.Durable) >= 6 })
	cancel()
	close(finish)
	if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
		t.Error(err)
	}
	if after := len(got.list()); after != before {
		t.Errorf("%d events were handled beside the suspect", after-before)
	}
	c = got.consumer()
	c.AckWait = time.Second
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if got.count("msg_4") != 1 {
		t.Errorf("got %v", got.list())
	}
}

// delivered returns how often the broker has delivered an event to a consumer.
func (s *system) delivered(t testing.TB, durable string) int {
	t.Helper()
	consumer, err := s.js.Consumer(t.Context(), "VERSIVE", durable)
	if err != nil {
		return 0
	}
	return int(consumer.CachedInfo().Delivered.Consumer)
}
