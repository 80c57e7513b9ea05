package subscribe_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestConsumeFilters(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "a", "i1")
	s.store(t, "msg_2", "b", "i2")
	s.store(t, "msg_3", "a", "i2")
	second := read(t, s.source, subscribe.Selection{First: 2, Last: 2})[0].Time
	for name, test := range map[string]struct {
		set  func(*subscribe.Consumer)
		want []string
	}{
		"study":     {func(c *subscribe.Consumer) { c.Filter.StudyID = "a" }, []string{"msg_1", "msg_3"}},
		"interview": {func(c *subscribe.Consumer) { c.Filter.InterviewID = "i2" }, []string{"msg_2", "msg_3"}},
		"type":      {func(c *subscribe.Consumer) { c.Filter.Type = "interview.completed" }, []string{"msg_1", "msg_2", "msg_3"}},
		"subject":   {func(c *subscribe.Consumer) { c.Subject = "versive.*.*.b.>" }, []string{"msg_2"}},
		"since":     {func(c *subscribe.Consumer) { c.Since = second }, []string{"msg_2", "msg_3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got record
			c := got.consumer()
			c.Durable = name
			test.set(&c)
			start(t, s.source, c)
			s.awaitDone(t, name)
			if diff := cmp.Diff(test.want, got.list()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A durable consumer that was configured by hand loses no event.
func TestConsumeRepairsItsConsumer(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	c := got.consumer()
	c.Concurrency = 2
	if _, err := s.js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{
		Durable: c.Durable, AckPolicy: jetstream.AckExplicitPolicy,
		HeadersOnly: true, MaxDeliver: 1, MaxRequestBatch: 1,
	}); err != nil {
		t.Fatal(err)
	}
	handle := c.Event
	var failed atomic.Bool
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if failed.CompareAndSwap(false, true) {
			return errors.New("not now")
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	ids := got.list()
	slices.Sort(ids)
	if want := []string{"msg_0", "msg_1", "msg_2"}; !slices.Equal(ids, want) {
		t.Errorf("handled %v, want %v", ids, want)
	}
}

// A durable consumer that exists is not changed so that it skips events. The error
// names the remedy.
func TestConsumeRefusesToSkip(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	second := read(t, s.source, subscribe.Selection{First: 2, Last: 2})[0].Time
	for name, test := range map[string]struct {
		before, after func(*subscribe.Consumer)
		want          string // of the error; empty: Consume does not return
		logged        string
	}{
		"nothing changed": {
			func(c *subscribe.Consumer) { c.Filter.StudyID, c.Since = "study", second },
			func(c *subscribe.Consumer) { c.Filter.StudyID, c.Since = "study", second }, "", "",
		},
		"wider filter": {
			func(c *subscribe.Consumer) { c.Filter.StudyID = "a" },
			func(*subscribe.Consumer) {}, "exists and reads versive.*.*.a.*.*, not versive.>", "",
		},
		"other filter": {
			func(c *subscribe.Consumer) { c.Filter.StudyID = "study" },
			func(c *subscribe.Consumer) { c.Subject = "versive.*.*.other.>" }, "choose another Durable, or delete this one (nats consumer rm VERSIVE ", "",
		},
		"earlier since": {
			func(c *subscribe.Consumer) { c.Since = second },
			func(c *subscribe.Consumer) { c.Since = second.Add(-time.Nanosecond) }, "it would skip the events stored between", "",
		},
		"later since": {
			func(c *subscribe.Consumer) { c.Since = second },
			func(c *subscribe.Consumer) { c.Since = second.Add(time.Hour) }, "", "Since is ignored",
		},
		"since on a consumer from the first": {
			func(*subscribe.Consumer) {},
			func(c *subscribe.Consumer) { c.Since = second }, "", "Since is ignored",
		},
		"filter that matches nothing": {
			func(c *subscribe.Consumer) { c.Filter.Type = "interview.complete" },
			func(c *subscribe.Consumer) { c.Filter.Type = "interview.complete" }, "", "no stored event matches",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got record
			c := got.consumer()
			c.Durable = strings.ReplaceAll(name, " ", "_")
			test.before(&c)
			stop := start(t, s.source, c)
			embeddedtest.Await(t, "the consumer exists", func() bool {
				_, err := s.js.Consumer(t.Context(), "VERSIVE", c.Durable)
				return err == nil
			})
			if err := stop(); err != nil {
				t.Fatal(err)
			}

			log := new(embeddedtest.Log)
			again := got.consumer()
			again.Durable, again.Logger = c.Durable, slog.New(slog.NewTextHandler(log, nil))
			test.after(&again)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- s.source.Consume(ctx, again) }()
			if test.want != "" {
				if err := embeddedtest.Receive(t, "Consume ends", ended); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			embeddedtest.Await(t, "it is reported", func() bool { return strings.Contains(log.String(), test.logged) })
			cancel()
			if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
				t.Error(err)
			}
			if test.logged == "" && log.String() != "" {
				t.Errorf("logged %s", log)
			}
		})
	}
}

// Of two processes that begin under one name with different filters, one gets an
// error.
func TestConsumeRefusesASecondFilter(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got record
	ended := make(chan error, 2)
	for _, study := range []string{"study", "other"} {
		c := got.consumer()
		c.Filter.StudyID = study
		go func() { ended <- s.source.Consume(ctx, c) }()
	}
	if err := embeddedtest.Receive(t, "one of them ends", ended); err == nil || !strings.Contains(err.Error(), "exists and reads") {
		t.Errorf("the first to end: %v", err)
	}
	cancel()
	if err := embeddedtest.Receive(t, "Consume ends", ended); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// A consumer that is rewound to a dead letter's event while it is read handles that
// event, and the later ones again.
func TestRewind(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	var fixed atomic.Bool
	c := got.consumer()
	handle := c.Event
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if event.ID == "msg_1" && !fixed.Load() {
			return subscribe.ErrPermanent
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
	if len(letters) != 1 {
		t.Fatalf("got %d dead letters, want 1", len(letters))
	}
	sequence, err := strconv.ParseUint(letters[0].Header.Get(schema.HeaderDeadSequence), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	fixed.Store(true)
	if _, err := s.js.ResetConsumerToSequence(t.Context(), "VERSIVE", c.Durable, sequence); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "both are handled", func() bool { return len(got.list()) == 4 })
	s.awaitDone(t, c.Durable)
	if diff := cmp.Diff([]string{"msg_0", "msg_2", "msg_1", "msg_2"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An event that is in flight while the consumer is rewound is handled again: what its
// handler has done may have been undone for the rewind.
func TestRewindInFlight(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got record
	entered, release := make(chan bool, 1), make(chan bool)
	c := got.consumer()
	c.Concurrency = 2
	handle := c.Event
	var waited atomic.Bool
	c.Event = func(ctx context.Context, event schema.Event, m subscribe.Message) error {
		if event.ID == "msg_0" && !waited.Swap(true) {
			entered <- true
			<-release
		}
		return handle(ctx, event, m)
	}
	start(t, s.source, c)
	embeddedtest.Receive(t, "the event is in flight", entered)
	embeddedtest.Await(t, "the others are handled", func() bool { return len(got.list()) == 2 })
	if _, err := s.js.ResetConsumerToSequence(t.Context(), "VERSIVE", c.Durable, 1); err != nil {
		t.Fatal(err)
	}
	// They are delivered after the event in flight.
	embeddedtest.Await(t, "the others are handled again", func() bool { return len(got.list()) == 4 })
	close(release)
	embeddedtest.Await(t, "the event in flight is handled again", func() bool { return len(got.list()) == 6 })
	s.awaitDone(t, c.Durable)
	if diff := cmp.Diff([]string{"msg_1", "msg_2", "msg_1", "msg_2", "msg_0", "msg_0"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
