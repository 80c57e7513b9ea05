package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/schema"
)

// An event is a webhook with an id of its own, and its outcome.
type event struct {
	id   string
	head []byte // the signed request up to the body
	body []byte // shared with other events

	sent     bool // at least once
	accepted bool // answered 2xx at least once
}

// A source makes events. They are signed before a load begins, because signing
// costs as much processor time as verifying.
type source struct {
	secret  string
	webhook *svix.Webhook
	body    []byte
	events  []*event // all events that were made
}

func newSecret() string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(rand.Text()))
}

// newSource returns a source of events with bodies of size bytes.
func newSource(secret string, size int) *source {
	return &source{secret: secret, webhook: must(svix.NewWebhook(secret)), body: newBody(size)}
}

// next makes n more events, unsigned.
func (s *source) next(n int) []*event {
	first := len(s.events)
	for range n {
		s.events = append(s.events, &event{id: "msg_" + rand.Text(), body: s.body})
	}
	return s.events[first:]
}

// sign makes events ready to be posted within the next five minutes.
func (s *source) sign(events []*event) {
	now := time.Now()
	for _, e := range events {
		e.head = fmt.Appendf(nil, "POST /webhooks/versive HTTP/1.1\r\nHost: ingress.example\r\nUser-Agent: Svix-Webhooks/1.0\r\n"+
			"Content-Type: application/json\r\nContent-Length: %d\r\n"+
			"svix-id: %s\r\nsvix-timestamp: %d\r\nsvix-signature: %s\r\n\r\n",
			len(e.body), e.id, now.Unix(), must(s.webhook.Sign(e.id, now, e.body)))
	}
}

// newForged returns requests that a handler must reject: half of them with a
// stranger's signature, half without one.
func newForged(size int) []*event {
	stranger := newSource(newSecret(), size)
	events := stranger.next(1024)
	stranger.sign(events)
	for i := 0; i < len(events); i += 2 {
		events[i].head = bytes.ReplaceAll(events[i].head, []byte("\r\nsvix-"), []byte("\r\nunsigned-"))
	}
	return events
}

// withResends returns the order in which events are sent. The given share of all
// sends are resends: half of them soon after the first send, which may still be in
// flight, half at any later time.
func withResends(events []*event, share float64) []*event {
	const soon = 256                              // events
	random := mathrand.New(mathrand.NewPCG(1, 2)) // the same in all rounds
	order := make([]*event, 0, int(float64(len(events))/(1-share))+1)
	for n := 0; n < len(events); {
		switch {
		case n == 0 || random.Float64() >= share:
			order = append(order, events[n])
			n++
		case random.IntN(2) == 0:
			order = append(order, events[n-1-random.IntN(min(n, soon))])
		default:
			order = append(order, events[random.IntN(n)])
		}
	}
	return order
}

// newBody returns the body of a webhook of exactly size bytes, at least 2 KiB. As
// real bodies do, it grows with its conversation, which it holds twice: as turns and
// as a transcript.
func newBody(size int) []byte {
	start := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	e := schema.InterviewCompleted{
		Type: "interview.completed",
		Interview: schema.Interview{
			ID: "3fa85f64-5717-4562-b3fc-2c963f66afa6", Title: "Commuting with our app/study_123", Status: "closed", Type: "VERSIVE",
			CreatedAt: start, StartedAt: start.Add(12 * time.Second), EndedAt: start.Add(581 * time.Second), ActiveTime: "569",
			Metadata: jsontext.Value(`{"panel":"commuters"}`), RecordingURL: "https://recordings.example/3fa85f64", VID: "vid_1",
		},
		Study: schema.Study{
			ID: "study_123", Title: "Commuting with our app", Type: "VERSIVE_STUDY", Mode: "TEXT_AND_VOICE",
			CreatedAt: start, Metadata: jsontext.Value(`{}`),
		},
	}
	// Characters that JSON escapes, and characters outside ASCII.
	turn := schema.Turn{Role: "user", Content: "Annoyed – I had to ask a colleague at the café for the \"shared\" login."}
	line := "Participant: " + turn.Content + "\n"
	length := func(v any) int { return len(must(json.Marshal(v))) }
	turns := (size - length(&e)) / (length(turn) + length(line))
	e.Interview.Conversation = slices.Repeat([]schema.Turn{turn}, turns)
	e.Interview.Transcript = strings.Repeat(line, turns)
	e.Interview.Transcript += strings.Repeat(".", size-length(&e))
	return must(json.Marshal(&e))
}
