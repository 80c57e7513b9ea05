package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nuid"
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
// costs as much CPU as verifying.
type source struct {
	secret  string
	webhook *svix.Webhook
	bodies  [][]byte // taken in turns
	events  []*event // all events that were made
}

// A few distinct bodies are enough: each event has an id and a signature of its own.
const (
	maxBodies      = 16
	maxBodiesBytes = 16 << 20
)

func newSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// newSource returns a source of events with bodies of size bytes.
func newSource(secret string, size int) *source {
	s := &source{secret: secret, webhook: must(svix.NewWebhook(secret))}
	for n := range min(maxBodies, max(1, maxBodiesBytes/size)) {
		s.bodies = append(s.bodies, newBody(size, n))
	}
	return s
}

// must returns v. It is for calls that only a bug of the bench makes fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// next makes n more events, unsigned.
func (s *source) next(n int) []*event {
	first := len(s.events)
	for i := range n {
		s.events = append(s.events, &event{id: "msg_" + nuid.Next(), body: s.bodies[i%len(s.bodies)]})
	}
	return s.events[first:]
}

// sign makes events ready to be posted to host within the next five minutes.
func (s *source) sign(host string, events []*event) {
	now := time.Now()
	var workers sync.WaitGroup
	for part := range slices.Chunk(events, len(events)/runtime.GOMAXPROCS(0)+1) {
		workers.Go(func() {
			for _, e := range part {
				e.head = fmt.Appendf(nil, "POST /webhooks/versive HTTP/1.1\r\nHost: %s\r\nUser-Agent: Svix-Webhooks/1.0\r\n"+
					"Content-Type: application/json\r\nContent-Length: %d\r\n"+
					"svix-id: %s\r\nsvix-timestamp: %d\r\nsvix-signature: %s\r\n\r\n",
					host, len(e.body), e.id, now.Unix(), must(s.webhook.Sign(e.id, now, e.body)))
			}
		})
	}
	workers.Wait()
}

// maxEarly is the largest distance, in events, between an event and its early
// resend. With many connections the first request may still be in flight.
const maxEarly = 256

// withResends returns the order in which events are sent. The given share of all
// sends are resends: half of them soon after the first send, half at any later
// time.
func withResends(events []*event, share float64) []*event {
	random := mathrand.New(mathrand.NewPCG(1, 2)) // the same in all rounds
	order := make([]*event, 0, int(float64(len(events))/(1-share))+1)
	for n := 0; n < len(events); {
		switch {
		case n == 0 || random.Float64() >= share:
			order = append(order, events[n])
			n++
		case random.IntN(2) == 0:
			order = append(order, events[n-1-random.IntN(min(n, maxEarly))])
		default:
			order = append(order, events[random.IntN(n)])
		}
	}
	return order
}

// sentences hold characters that JSON escapes and characters outside ASCII.
var sentences = [...]string{
	"Could you walk me through the last time you did that?",
	"Sure. I opened the app on the train, and it had logged me out again.",
	"How did that make you feel?",
	"Annoyed, to be honest – I had to ask a colleague for the \"shared\" login.",
	"What would you change?",
	"The café next door has better Wi-Fi than our office, so: an offline mode.",
}

// newBody returns the body of a webhook of exactly size bytes, at least 2 KiB. A
// real body grows with its conversation, which it holds twice: as turns and as a
// transcript. Bodies of different n differ.
func newBody(size, n int) []byte {
	id := fmt.Sprintf("3fa85f64-5717-4562-b3fc-%012x", n)
	start := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	e := schema.InterviewCompleted{
		Type: "interview.completed",
		Interview: schema.Interview{
			ID: id, Title: "Commuting with our app/study_123/" + id, Status: "closed", Type: "VERSIVE", VID: fmt.Sprint("vid_", n),
			CreatedAt: start, StartedAt: start.Add(12 * time.Second), EndedAt: start.Add(581 * time.Second), ActiveTime: "569",
			Metadata: jsontext.Value(`{"panel":"commuters"}`), RecordingURL: "https://recordings.example/" + id,
		},
		Study: schema.Study{
			ID: "study_123", Title: "Commuting with our app", Type: "VERSIVE_STUDY", Mode: "TEXT_AND_VOICE",
			CreatedAt: start, Metadata: jsontext.Value(`{}`),
		},
	}
	// A turn takes at most turnBytes beside its sentence, which is there twice. A
	// filler in the transcript then makes up the exact size.
	const restBytes, turnBytes = 1200, 60
	var transcript strings.Builder
	for turn, used := 0, restBytes; ; turn++ {
		content := sentences[(n+turn)%len(sentences)]
		if used += 2*len(content) + turnBytes; used > size {
			break
		}
		role, name := "assistant", "Interviewer: "
		if turn%2 == 1 {
			role, name = "user", "Participant: "
		}
		e.Interview.Conversation = append(e.Interview.Conversation, schema.Turn{Role: role, Content: content})
		transcript.WriteString(name + content + "\n")
	}
	e.Interview.Transcript = transcript.String()
	missing := size - len(must(json.Marshal(&e)))
	e.Interview.Transcript += strings.Repeat(".", missing)
	return must(json.Marshal(&e))
}
