package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// requeue stores the requests to requeue all dead letters, as the command does.
func (s *system) requeue(t testing.TB) {
	t.Helper()
	for _, letter := range s.letters(t) {
		consumer, id, err := schema.ParseDeadLetter(letter.Subject)
		if err != nil {
			t.Fatal(err)
		}
		request := schema.Requeue(consumer, id, letter.Sequence)
		if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: request.Subject("versive"), Header: request.Header}); err != nil {
			t.Fatal(err)
		}
	}
}

// letters returns the dead letters, without tombstones and requests.
func (s *system) letters(t testing.TB) (list []subscribe.Message) {
	t.Helper()
	for _, m := range read(t, s.source, subscribe.Selection{Kind: schema.KindDead}) {
		if m.Header.Get(schema.HeaderReason) != "" {
			list = append(list, m)
		}
	}
	return list
}

// awaitSettled waits until no request is left. The consumer may not know yet of one that
// was just stored.
func (s *system) awaitSettled(t testing.TB, durable string) {
	t.Helper()
	embeddedtest.Await(t, "the requests are settled", func() bool {
		for _, m := range read(t, s.source, subscribe.Selection{Kind: schema.KindDead}) {
			if schema.RequeuedLetter(m.Header) > 0 {
				return false
			}
		}
		info, err := s.consumerInfo(t, "VERSIVE_DEAD", durable)
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	})
}

// A dead letter that is requeued is handled once more by its consumer, and by no other,
// as the event that it was.
func TestRequeue(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	s.storeFor(t, "acme", "msg_1")
	s.storeFor(t, "acme", "msg_2")
	var fixed atomic.Bool
	var messages, others record
	first, again := make(chan subscribe.Message, 1), make(chan subscribe.Message, 1)
	c := messages.consumer()
	c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
		messages.add(event.ID)
		switch {
		case event.ID != "msg_1":
			return nil
		case fixed.Load():
			again <- m
			return nil
		}
		first <- m
		return subscribe.ErrPermanent
	}
	other := others.consumer()
	other.Durable = "other"
	start(t, s.source, c)
	start(t, s.source, other)
	s.awaitDone(t, c.Durable)
	s.awaitDone(t, other.Durable)
	fixed.Store(true)
	s.requeue(t)
	s.awaitSettled(t, c.Durable)
	if got := s.letters(t); len(got) != 0 {
		t.Errorf("%d dead letters are left", len(got))
	}
	if messages.count("msg_1") != 2 || len(messages.list()) != 4 || len(others.list()) != 3 {
		t.Errorf("handled %v, and by the other consumer %v", messages.list(), others.list())
	}
	want, got := <-first, <-again
	if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == ".Pending" || p.Last().String() == ".delivery" || p.Last().String() == ".letter"
	}, cmp.Ignore())); diff != "" {
		t.Errorf("the event that is handled again (-first +again)\n%s", diff)
	}
}

// A requeued event whose handler fails again has new attempts, and then one dead letter,
// with the new reason. Requeued once more, it is handled.
func TestRequeueFailsAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	reason := atomic.Pointer[string]{}
	reason.Store(new("first"))
	c := got.consumer()
	c.Attempts, c.AckWait = 3, 5*time.Second // a request that was delivered to the consumer that stops waits as long
	c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
		got.add(event.ID)
		if *reason.Load() != "" {
			return errors.New(*reason.Load())
		}
		return nil
	}
	stop := start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	for i, again := range []string{"second", "third", ""} {
		reason.Store(&again)
		s.requeue(t)
		if i == 1 { // the consumer may not run at the time
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			start(t, s.source, c)
		}
		s.awaitSettled(t, c.Durable)
		letters := s.letters(t)
		if again == "" {
			if len(letters) != 0 || got.count("msg_0") != 10 {
				t.Errorf("%d dead letters are left after %d calls", len(letters), got.count("msg_0"))
			}
			continue
		}
		if len(letters) != 1 || schema.DecodeReason(letters[0].Header) != again || got.count("msg_0") != 3*(i+2) {
			t.Fatalf("after %q, %d calls: %+v", again, got.count("msg_0"), letters)
		}
	}
}

// A requeued dead letter is not handled if the event was erased, even if the erasure has
// not reached the letter yet, nor if the letter was discarded.
func TestRequeueVoid(t *testing.T) {
	t.Parallel()
	for name, void := range map[string]func(t *testing.T, s *system, letter uint64){
		"event erased": func(t *testing.T, s *system, _ uint64) {
			s.erase(t, "versive.interview.completed.study.interview_0.msg_0", 1)
		},
		"letter erased": func(t *testing.T, s *system, letter uint64) {
			eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
			if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindDead, Subject: "versive-dead.test.msg_0", Sequence: letter}); err != nil {
				t.Fatal(err)
			}
		},
		"letter being erased": func(t *testing.T, s *system, letter uint64) { // of an event that has reached its maximum age
			eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
			if err := eraser.Delete(t.Context(), publish.Copy{Kind: schema.KindEvent, Sequence: 1}); err != nil {
				t.Fatal(err)
			}
			if err := eraser.PutTombstone(t.Context(), schema.KindDead, "versive-dead.test.msg_0"); err != nil {
				t.Fatal(err)
			}
		},
		"discarded": func(t *testing.T, s *system, letter uint64) {
			eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
			if err := eraser.Delete(t.Context(), publish.Copy{Kind: schema.KindDead, Sequence: letter}); err != nil {
				t.Fatal(err)
			}
		},
		"given up again": func(t *testing.T, s *system, letter uint64) { // as if the process had ended after that
			stored := s.letters(t)[0]
			stored.Header.Del(jetstream.ExpectedLastSubjSeqHeader)
			if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: stored.Subject, Header: stored.Header, Data: stored.Data}); err != nil {
				t.Fatal(err)
			}
		},
		"of another consumer": func(t *testing.T, s *system, letter uint64) {
			request := schema.Requeue("test", "msg_0", letter+3)
			if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: request.Subject("versive"), Header: request.Header}); err != nil {
				t.Fatal(err)
			}
			s.letter(t, "other", "msg_0")
			eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
			if err := eraser.Delete(t.Context(), publish.Copy{Kind: schema.KindDead, Sequence: letter}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.storeMany(t, 1)
			var got record
			c := got.consumer()
			c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
				got.add(event.ID)
				return subscribe.ErrPermanent
			}
			stop := start(t, s.source, c)
			s.awaitDone(t, c.Durable)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			s.requeue(t)
			void(t, s, s.letters(t)[0].Sequence)
			start(t, s.source, c)
			s.awaitSettled(t, c.Durable)
			if got.count("msg_0") != 1 {
				t.Errorf("handled %v", got.list())
			}
			want := 0
			if name == "given up again" || name == "of another consumer" {
				want = 1
			}
			if letters := s.letters(t); len(letters) != want {
				t.Errorf("%d dead letters are left, want %d", len(letters), want)
			}
		})
	}
}

// letter stores a dead letter of another consumer, of the first event.
func (s *system) letter(t testing.TB, consumer, id string) {
	t.Helper()
	m := read(t, s.source, subscribe.Selection{First: 1, Last: 1})[0]
	letter := schema.DeadLetter(schema.Dead{Consumer: consumer, Reason: "no", ID: id, Subject: m.Subject, Sequence: m.Sequence, Deliveries: 1}, m.Header, m.Data)
	if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: letter.Subject("versive"), Header: letter.Header, Data: letter.Data}); err != nil {
		t.Fatal(err)
	}
}

// An event that is no longer in its stream is handled as the dead letter has it. An
// erasure that was given up is requeued like an event.
func TestRequeueWithoutTheEvent(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 2)
	s.erase(t, "versive.interview.completed.study.interview_1.msg_1", 2)
	var got record
	var fixed atomic.Bool
	c := got.consumer()
	add := func(entry string, m subscribe.Message) error {
		if !fixed.Load() {
			return subscribe.ErrPermanent
		}
		got.add(fmt.Sprint(entry, " ", m.Sequence, " ", m.Subject))
		return nil
	}
	c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
		data, err := schema.DecodeAs[schema.InterviewCompleted](event)
		return errors.Join(err, add(event.ID+" "+data.Interview.Transcript, m))
	}
	c.Erasure = func(_ context.Context, erased schema.Subject, m subscribe.Message) error {
		return add("-"+erased.ID, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	stream, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil { // as by the maximum age
		t.Fatal(err)
	}
	fixed.Store(true)
	s.requeue(t)
	s.awaitSettled(t, c.Durable)
	want := []string{"msg_0 marker 1 versive.interview.completed.study.interview_0.msg_0", "-msg_1 3 versive.interview.completed.study.interview_1.msg_1"}
	if diff := cmp.Diff(want, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A consumer has as many handlers at the same time as it allows, requeued dead letters
// included.
func TestRequeueConcurrency(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 20)
	var got record
	var fixed, tooMany atomic.Bool
	var running atomic.Int64
	two := make(chan struct{}) // closed when two handlers run
	closeTwo := sync.OnceFunc(func() { close(two) })
	c := got.consumer()
	c.Concurrency = 2
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if !fixed.Load() {
			return subscribe.ErrPermanent
		}
		switch n := running.Add(1); {
		case n == 2:
			closeTwo()
		case n > 2:
			tooMany.Store(true)
		}
		select {
		case <-two:
		case <-ctx.Done():
		}
		time.Sleep(2 * time.Millisecond) // its work
		running.Add(-1)
		got.add(event.ID)
		return nil
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	fixed.Store(true)
	s.requeue(t)
	for i := range 20 {
		s.store(t, fmt.Sprint("msg_more_", i), "study", fmt.Sprint("interview_more_", i))
	}
	s.awaitSettled(t, c.Durable)
	s.awaitDone(t, c.Durable)
	if len(got.list()) != 40 || tooMany.Load() {
		t.Errorf("%d events were handled, more than 2 at the same time: %t", len(got.list()), tooMany.Load())
	}
}

// Events are consumed by a user that may not read requeued dead letters.
func TestRequeueDenied(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	source := s.source
	source.JetStream = withoutDeadConsumers{source.JetStream}
	stop := start(t, source, got.consumer())
	s.awaitDone(t, "test")
	if err := stop(); err != nil || len(got.list()) != 1 {
		t.Errorf("handled %v: %v", got.list(), err)
	}
}

// withoutDeadConsumers answers requests for consumers of dead letters as a broker does
// that has no such service for the account.
type withoutDeadConsumers struct{ jetstream.JetStream }

func (w withoutDeadConsumers) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	if stream == "VERSIVE_DEAD" {
		return nil, nats.ErrNoResponders
	}
	return w.JetStream.Consumer(ctx, stream, name)
}
