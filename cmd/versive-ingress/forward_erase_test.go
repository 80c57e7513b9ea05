package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// bury dead-letters an event of a stream, as a consumer does.
func bury(t testing.TB, js jetstream.JetStream, consumer, id string) {
	t.Helper()
	if err := (subscribe.Source{JetStream: js}).EnsureDeadLetters(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range readAll(t, js, "VERSIVE") {
		if m.Headers().Get(jetstream.MsgIDHeader) != id {
			continue
		}
		metadata, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		letter := schema.DeadLetter(schema.Dead{Consumer: consumer, Reason: "no", ID: id, Subject: m.Subject(), Sequence: metadata.Sequence.Stream}, m.Headers(), m.Data())
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: letter.Subject("versive"), Header: letter.Header, Data: letter.Data}); err != nil {
			t.Fatal(err)
		}
	}
}

// live returns the ids of the messages with data in all streams of js.
func live(t testing.TB, js jetstream.JetStream) (list []string) {
	t.Helper()
	for kind := range schema.KindDead + 1 {
		for _, m := range headersIn(t, js, kind.Stream("VERSIVE")) {
			if !m.Erased() {
				list = append(list, m.Subject)
			}
		}
	}
	return list
}

// An erasure at an edge or at the hub, whether or not they are connected, erases at all
// of them, dead letters and quarantined webhooks included, and a resend to any edge is
// rejected by a tombstone.
func TestForwardErasures(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"edge", "other edge", "hub"} {
		for _, connected := range []bool{true, false} {
			t.Run(fmt.Sprintf("at the %s,connected=%v", place, connected), func(t *testing.T) {
				t.Parallel()
				testForwardErasure(t, place, connected)
			})
		}
	}
}

func testForwardErasure(t *testing.T, place string, connected bool) {
	h := startHub(t)
	a, b := startEdge(t, h), startEdge(t, h)
	edges := []*edge{a, b}
	body := plantedBody("interview.completed", "interview_1")
	post := func(e *edge, id string, body []byte, status int) {
		t.Helper()
		if answer := e.post(t, id, body); answer.Status != status {
			t.Errorf("%s: %v", id, answer)
		}
	}
	// Both edges have the event, and so has the hub; consumers at all of them have given
	// up on it. One edge has a webhook of the interview that was not understood.
	for _, e := range edges {
		post(e, "msg_1", body, 200)
		post(e, "msg_keep", interview("interview_2"), 200)
	}
	if place != "other edge" { // which has never had it, so an erasure there does not find it
		post(a, "msg_q", plantedBody("interview.imagined", "interview_1"), 202)
	}
	awaitNothingPending := func() {
		t.Helper()
		embeddedtest.Await(t, "nothing pending", func() bool { return a.pending(t)+b.pending(t) == 0 })
	}
	embeddedtest.Await(t, "the events are at the hub", func() bool { return len(headersIn(t, h.js, "VERSIVE")) == 2 })
	bury(t, a.js, "reports", "msg_1")
	bury(t, h.js, "reports", "msg_1")
	bury(t, h.js, "statistics", "msg_1")
	defer func() {
		if t.Failed() {
			t.Log(live(t, a.js), live(t, b.js), live(t, h.js), a.pending(t), b.pending(t), "\n", a.log)
		}
	}()
	embeddedtest.Await(t, "all is at the hub", func() bool {
		return a.pending(t)+b.pending(t) == 0 && len(live(t, h.js)) >= len(live(t, a.js))+1 // statistics
	})

	if !connected {
		a.link.sever()
		b.link.sever()
		if place == "edge" { // not forwarded before it is erased
			post(a, "msg_late", body, 200)
		}
	}
	at := map[string]config.Settings{"edge": a.settings, "other edge": b.settings, "hub": withBroker(newSettings(t), h.cfg.Listen)}[place]
	must(t, at, "erase", "--interview", "interview_1", "--yes")
	for _, e := range edges {
		e.link.restore()
	}

	dirs := []string{a.settings.DataDir, b.settings.DataDir, h.cfg.Dir}
	defer func() {
		for _, dir := range dirs {
			t.Logf("%s: %v", dir, filesWith(t, dir, planted))
		}
		t.Log(live(t, a.js), live(t, b.js), live(t, h.js))
	}()
	erased := func() bool {
		if strings.Contains(strings.Join(append(append(live(t, a.js), live(t, b.js)...), live(t, h.js)...), " "), "msg_1") {
			return false
		}
		for _, dir := range dirs {
			if len(filesWith(t, dir, planted)) > 0 {
				return false
			}
		}
		return true
	}
	embeddedtest.Await(t, "it is erased everywhere", erased)
	for _, e := range edges { // tombstones have come down
		embeddedtest.Await(t, "a resend is rejected", func() bool {
			post(e, "msg_1", body, 200)
			return erased()
		})
	}
	awaitNothingPending()
	time.Sleep(2 * time.Second) // for what must not happen
	if !erased() {
		t.Error("something of it came back")
	}
	for _, js := range []jetstream.JetStream{a.js, b.js, h.js} {
		found := 0
		for _, m := range readAll(t, js, "VERSIVE") {
			if strings.HasSuffix(m.Subject(), ".msg_1") {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d messages on the subject, want one tombstone", found)
		}
	}
}
