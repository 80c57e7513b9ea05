package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The checker sees what it is there for: each kind of wrong is planted in a
// real stream.
func TestProve(t *testing.T) {
	t.Parallel()
	js := newStream(t, jetstream.StreamConfig{
		Name: bareStream, Subjects: []string{"bare.>"},
		Duplicates: 100 * time.Millisecond, // the least that there is, for the doubled one
	})
	publish := func(id string) bool {
		ack, err := js.Publish(t.Context(), "bare."+id, nil, jetstream.WithMsgID(id))
		if err != nil {
			t.Fatal(err)
		}
		return !ack.Duplicate
	}
	read := func() map[string]int {
		stored, err := readIDs(t.Context(), js, bareStream)
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	expect := func(events []*event, want proof, words string) {
		t.Helper()
		got := prove(events, read())
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := got.err(); (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want an error with %q", err, words)
		}
	}

	events := newTestSource(t).next(100)
	expect(events, proof{}, "")

	for _, e := range events[:98] { // the last two are sent, but not accepted
		e.accepted.Store(true)
		publish(e.id)
	}
	events[98].sent.Store(true)
	events[99].sent.Store(true)
	expect(events, proof{Accepted: 98, Stored: 98}, "")

	publish(events[98].id)
	expect(events, proof{Accepted: 98, Stored: 99, Foreign: 1}, "never answered 2xx 1")
	events[98].accepted.Store(true)
	expect(events, proof{Accepted: 99, Stored: 99}, "")

	events[99].accepted.Store(true)
	expect(events, proof{Accepted: 100, Stored: 99, Missing: 1}, "missing 1")
	publish(events[99].id)
	expect(events, proof{Accepted: 100, Stored: 100}, "")

	for deadline := time.Now().Add(patience); !publish(events[0].id); {
		if time.Now().After(deadline) {
			t.Fatal("the duplicate window does not end")
		}
	}
	expect(events, proof{Accepted: 100, Stored: 101, Doubled: 1}, "twice 1")

	stream, err := js.Stream(t.Context(), bareStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	expect(events, proof{Accepted: 100, Stored: 100, Missing: 1, Doubled: 1}, "missing 1, stored twice 1")
}

func TestReadIDsOfNoStream(t *testing.T) {
	t.Parallel()
	js := newStream(t, jetstream.StreamConfig{Name: "OTHER"})
	if _, err := readIDs(t.Context(), js, bareStream); err == nil || !strings.Contains(err.Error(), bareStream) {
		t.Errorf("got %v, want an error that names the stream", err)
	}
}
