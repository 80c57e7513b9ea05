package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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

// An event that cannot be handled is dead-lettered, with the reason, and not
// redelivered.
func TestConsumeGivesUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail      func() error
		attempts  int
		delivered int
		reason    string
	}{
		"immediately":         {func() error { return fmt.Errorf("not our study: %w", subscribe.ErrPermanent) }, 0, 1, "not our study: permanent failure"},
		"after the last time": {func() error { return errors.New("still not") }, 3, 3, "still not"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.storeMany(t, 3)
			var got record
			c := got.consumer()
			c.Attempts = test.attempts
			c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
				got.add(event.ID)
				if event.ID == "msg_1" {
					return test.fail()
				}
				return nil
			}
			start(t, s.source, c)
			s.awaitDone(t, c.Durable)
			if n := got.count("msg_1"); n != test.delivered {
				t.Errorf("msg_1 was delivered %d times, want %d", n, test.delivered)
			}
			letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
			if len(letters) != 1 {
				t.Fatalf("got %d dead letters, want 1", len(letters))
			}
			letter := letters[0]
			if letter.Subject != "versive-dead.test.msg_1" || schema.DecodeReason(letter.Header) != test.reason ||
				letter.Header.Get(schema.HeaderDeadSubject) != "versive.interview.completed.study.interview_1.msg_1" ||
				letter.Header.Get(schema.HeaderDeadDeliveries) != fmt.Sprint(test.delivered) {
				t.Errorf("got %s %v", letter.Subject, letter.Header)
			}
			if event, err := letter.Event(); err != nil || event.ID != "msg_1" || !strings.Contains(string(event.Data), `"transcript":"marker"`) {
				t.Errorf("the dead letter is not the event: %+v, %v", event, err)
			}
		})
	}
}

// A message that is not an event, because another program has published it, is
// dead-lettered as well.
func TestConsumePutsAsideWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "study", "interview")
	for _, subject := range []string{"versive.interview.completed.s.i.msg_2", "versive.other"} {
		if _, err := s.js.Publish(t.Context(), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	var got record
	start(t, s.source, got.consumer())
	s.awaitDone(t, "test")
	if diff := cmp.Diff([]string{"msg_1"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var subjects []string
	for _, m := range read(t, s.source, subscribe.Selection{Kind: schema.KindDead}) {
		subjects = append(subjects, m.Subject)
		if string(m.Data) != "{}" || !strings.Contains(schema.DecodeReason(m.Header), "decoding event") {
			t.Errorf("got %v %s", m.Header, m.Data)
		}
	}
	if diff := cmp.Diff([]string{"versive-dead.test.msg_2", "versive-dead.test.other"}, subjects); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An event whose dead letter cannot be stored is not acknowledged until it can.
// A dead letter whose acknowledgement by the broker is lost is stored once.
func TestConsumeKeepsWhatCannotBeADeadLetter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		breakIt, mend func(s *system) error
	}{
		"not stored": {
			func(s *system) error { return s.js.DeleteStream(context.Background(), "VERSIVE_DEAD") },
			func(s *system) error {
				_, err := s.js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}})
				return err
			},
		},
		"stored before": {
			func(s *system) error {
				msg := nats.NewMsg("versive-dead.test.msg_1")
				msg.Header.Set(schema.HeaderDeadSequence, "1")
				_, err := s.js.PublishMsg(context.Background(), msg)
				return err
			},
			func(*system) error { return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.store(t, "msg_1", "study", "interview")
			var got record
			var once sync.Once
			c := got.consumer()
			c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
				got.add(event.ID)
				once.Do(func() {
					if err := test.breakIt(s); err != nil {
						t.Error(err)
					}
				})
				if m.Deliveries == 3 {
					if err := test.mend(s); err != nil {
						t.Error(err)
					}
				}
				return subscribe.ErrPermanent
			}
			start(t, s.source, c)
			s.awaitDone(t, c.Durable)
			if letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead}); len(letters) != 1 || letters[0].Subject != "versive-dead.test.msg_1" {
				t.Errorf("got %+v", letters)
			}
			if want := map[string]int{"not stored": 3, "stored before": 1}[name]; got.count("msg_1") != want {
				t.Errorf("handled %d times, want %d", got.count("msg_1"), want)
			}
		})
	}
}

// A letter that was deleted recently is stored again when its event is
// dead-lettered again.
func TestConsumeStoresADeletedLetterAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	c := got.consumer()
	c.Event = func(context.Context, schema.Event, subscribe.Message) error { return subscribe.ErrPermanent }
	for range 2 {
		stop := start(t, s.source, c)
		s.awaitDone(t, c.Durable)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
		if len(letters) != 1 {
			t.Fatalf("got %d dead letters, want 1", len(letters))
		}
		dead, err := s.js.Stream(t.Context(), "VERSIVE_DEAD")
		if err != nil {
			t.Fatal(err)
		}
		if err := dead.DeleteMsg(t.Context(), letters[0].Sequence); err != nil {
			t.Fatal(err)
		}
		if err := s.js.DeleteConsumer(t.Context(), "VERSIVE", c.Durable); err != nil {
			t.Fatal(err)
		}
	}
}

// The dead-letter stream keeps messages for no longer than the event stream.
func TestConsumeDeadLettersAge(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	events, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	config := events.CachedInfo().Config
	config.MaxAge = 90 * 24 * time.Hour
	if _, err := s.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	var got record
	start(t, s.source, got.consumer())
	embeddedtest.Await(t, "the stream is created", func() bool {
		dead, err := s.js.Stream(t.Context(), "VERSIVE_DEAD")
		if err == nil && dead.CachedInfo().Config.MaxAge != config.MaxAge {
			t.Fatalf("dead letters are kept for %v, want %v", dead.CachedInfo().Config.MaxAge, config.MaxAge)
		}
		return err == nil
	})
}

func TestConsumeHandsErasuresOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	s.erase(t, "versive.interview.completed.study.interview_1.msg_1", 2)
	var got record
	start(t, s.source, got.consumer())
	s.awaitDone(t, "test")
	if diff := cmp.Diff([]string{"msg_0", "msg_2", "-msg_1"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, m := range read(t, s.source, subscribe.Selection{First: 4}) {
		if !m.Erased() || m.ID != "msg_1" || len(m.Data) != 0 {
			t.Errorf("got %+v", m)
		}
	}
}

// An event that is erased while its handler runs is not dead-lettered: an erasure that has
// ended would not find the dead letter. One that is erased while the dead letter is stored
// leaves none.
func TestConsumeDoesNotBuryWhatWasErased(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]uint64{"while it is handled": 0, "while it is dead-lettered": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.storeMany(t, 1)
			erase := func() { s.erase(t, "versive.interview.completed.study.interview_0.msg_0", 1) }
			source := s.source
			var got record
			c := got.consumer()
			c.Event = func(context.Context, schema.Event, subscribe.Message) error {
				if stored == 0 {
					erase()
				}
				return subscribe.ErrPermanent
			}
			if stored == 1 {
				source.JetStream = beforePublish{source.JetStream, erase}
			}
			stop := start(t, source, c)
			embeddedtest.Await(t, "the erasure is handled", func() bool { return got.count("-msg_0") == 1 })
			s.awaitDone(t, c.Durable)
			if err := stop(); err != nil {
				t.Error(err)
			}
			dead, err := s.js.Stream(t.Context(), "VERSIVE_DEAD")
			if err != nil {
				t.Fatal(err)
			}
			if state := dead.CachedInfo().State; state.Msgs != 0 || state.LastSeq != stored {
				t.Errorf("got %+v", state)
			}
		})
	}
}

// beforePublish calls a function before a message is published.
type beforePublish struct {
	jetstream.JetStream
	call func()
}

func (b beforePublish) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	b.call()
	return b.JetStream.PublishMsg(ctx, m, opts...)
}

// A tombstone is dead-lettered too, after the letter of its event, or after the
// tombstone of that letter.
func TestConsumeBuriesTombstones(t *testing.T) {
	t.Parallel()
	for _, erased := range []bool{false, true} {
		t.Run(fmt.Sprintf("letter erased %v", erased), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.storeMany(t, 1)
			var got record
			c := got.consumer()
			c.Event = func(context.Context, schema.Event, subscribe.Message) error {
				return fmt.Errorf("the event: %w", subscribe.ErrPermanent)
			}
			c.Erasure = func(context.Context, schema.Subject, subscribe.Message) error {
				return fmt.Errorf("the erasure: %w", subscribe.ErrPermanent)
			}
			stop := start(t, s.source, c)
			s.awaitDone(t, c.Durable)
			if err := stop(); err != nil {
				t.Error(err)
			}
			s.erase(t, "versive.interview.completed.study.interview_0.msg_0", 1)
			if erased {
				eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
				if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindDead, Subject: "versive-dead.test.msg_0", Sequence: 1}); err != nil {
					t.Fatal(err)
				}
			}
			start(t, s.source, c)
			embeddedtest.Await(t, "the erasure is dead-lettered", func() bool {
				letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
				last := letters[len(letters)-1]
				return strings.HasPrefix(schema.DecodeReason(last.Header), "the erasure") && last.Erased()
			})
			s.awaitDone(t, c.Durable)
		})
	}
}

// An event that is erased between two attempts is not redelivered.
func TestConsumeForgetsWhatWasErased(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	var got record
	c := got.consumer()
	c.Event = func(_ context.Context, event schema.Event, _ subscribe.Message) error {
		got.add(event.ID)
		s.erase(t, "versive.interview.completed.study.interview_0.msg_0", 1)
		return errors.New("not now")
	}
	start(t, s.source, c)
	embeddedtest.Await(t, "the erasure is handled", func() bool { return got.count("-msg_0") == 1 })
	s.awaitDone(t, c.Durable)
	if got.count("msg_0") != 1 {
		t.Errorf("got %v", got.list())
	}
}
