package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
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
	for kind := range schema.Kinds {
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

// An event that was erased at the hub is resent to an edge whose tombstone has expired:
// the hub, which recognizes its id, has it erased there.
func TestForwardErasedBefore(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	a := startEdge(t, h)
	b := startEdge(t, h, func(s *config.Settings) { s.MaxAge = time.Second })
	body := plantedBody("interview.completed", "interview_1")
	if answer := a.post(t, "msg_1", body); answer.Status != 200 {
		t.Fatal(answer)
	}
	awaitIDs(t, h.js, "VERSIVE", "msg_1")
	must(t, withBroker(newSettings(t), h.cfg.Listen), "erase", "--interview", "interview_1", "--yes")
	tombstones := func() int { return len(idsIn(t, b.js, "VERSIVE")) }
	embeddedtest.Await(t, "the other edge has the tombstone", func() bool { return tombstones() == 1 })
	embeddedtest.Await(t, "it has expired", func() bool { return tombstones() == 0 })
	if answer := b.post(t, "msg_1", body); answer.Outcome != "stored" {
		t.Error(answer)
	}
	embeddedtest.Await(t, "the resend is erased", func() bool {
		return len(live(t, b.js)) == 0 && len(filesWith(t, b.settings.DataDir, planted)) == 0 &&
			strings.Contains(b.metric("versive_ingress_forward_events_total"), `{outcome="erased"} 1`)
	})
}

// A webhook that is settled in the quarantine of the hub, or of an edge, is settled everywhere,
// and does not come back when an edge forwards everything again.
func TestForwardSettledQuarantine(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	short := func(s *config.Settings) { s.DedupeWindow = time.Second }
	a, b := startEdge(t, h, short), startEdge(t, h, short)
	for _, e := range []*edge{a, b} {
		for _, id := range []string{"msg_hub", "msg_edge", "msg_stays"} {
			if answer := e.post(t, id, []byte(`{"event_type":"interview.imagined"}`)); answer.Status != 202 {
				t.Fatal(answer)
			}
		}
	}
	places := []jetstream.JetStream{a.js, b.js, h.js}
	awaitLive := func(want ...string) {
		t.Helper()
		embeddedtest.Await(t, fmt.Sprint("all have ", want), func() bool {
			for _, js := range places {
				if have := live(t, js); len(have) != len(want) || !strings.HasSuffix(strings.Join(have, " "), strings.Join(want, " ")) {
					return false
				}
			}
			return a.pending(t)+b.pending(t) == 0
		})
	}
	embeddedtest.Await(t, "all is at the hub", func() bool { return len(live(t, h.js)) == 3 && a.pending(t)+b.pending(t) == 0 })
	must(t, withBroker(newSettings(t), h.cfg.Listen), "quarantine", "discard", "msg_hub", "--yes")
	must(t, b.settings, "quarantine", "discard", "msg_edge", "--yes")
	awaitLive("versive-quarantine.msg_stays")

	a.Stop()
	h.Stop()
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	a = runEdge(t, a.settings, a.link)
	if err := a.js.DeleteConsumer(t.Context(), "VERSIVE_QUARANTINE", forward.Consumer); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	a = runEdge(t, a.settings, a.link)
	places[0] = a.js
	if answer := a.post(t, "msg_hub", []byte(`{"event_type":"interview.imagined"}`)); answer.Status != 202 {
		t.Error(answer)
	}
	if answer := a.post(t, "msg_last", []byte(`{"event_type":"interview.imagined"}`)); answer.Status != 202 {
		t.Error(answer)
	}
	embeddedtest.Await(t, "the hub has the last", func() bool { return strings.Contains(strings.Join(live(t, h.js), " "), "msg_last") })
	if have := live(t, h.js); len(have) != 2 {
		t.Errorf("the hub has %v", have)
	}
}
