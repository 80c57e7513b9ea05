package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/go-json-experiment/json"
)

type interview struct {
	EventType string `json:"event_type"`
	Interview struct {
		ID           string            `json:"id"`
		Title        string            `json:"title"`
		Status       string            `json:"status"`
		IsMock       bool              `json:"is_mock"`
		IsArchived   bool              `json:"is_archived"`
		CreatedAt    string            `json:"created_at"`
		StartedAt    string            `json:"started_at"`
		EndedAt      string            `json:"ended_at"`
		Type         string            `json:"type"`
		Metadata     map[string]string `json:"metadata"`
		ActiveTime   int               `json:"active_time"`
		RecordingURL string            `json:"recording_url"`
		Transcript   string            `json:"transcript"`
		Conversation []turn            `json:"parsed_conversation_json"`
		VID          string            `json:"vid"`
	} `json:"interview"`
	Study struct {
		ID        string            `json:"id"`
		Title     string            `json:"title"`
		Metadata  map[string]string `json:"metadata"`
		Type      string            `json:"type"`
		Mode      string            `json:"mode"`
		CreatedAt string            `json:"created_at"`
	} `json:"study"`
}

type turn struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// What people say in interviews, with what JSON has to escape.
var sentences = [...]string{
	"Could you walk me through the last time you did that?",
	"Sure. I opened the app on the train, and it had logged me out again.",
	"How did that make you feel?",
	"Annoyed, to be honest \u2013 I had to ask a colleague for the \"shared\" login.",
	"What would you have expected instead?",
	"That it remembers me. My bank's app does, and it's no less careful.",
	"Is there anything else you would change?",
	"The caf\u00e9 next door has better Wi-Fi than our office, so: an offline mode.",
}

// newInterview returns the body of a webhook of about size bytes (to the byte
// from 2 KiB on). As in real life it grows by its conversation, which is there
// twice: as turns, and as one transcript. n tells interviews apart.
func newInterview(size, n int) ([]byte, error) {
	var v interview
	v.EventType = "interview.completed"
	i := &v.Interview
	i.ID = fmt.Sprintf("3fa85f64-5717-4562-b3fc-%012x", n)
	i.Title = "Commuting with our app/study_123/" + i.ID
	i.Status, i.Type, i.VID = "closed", "VERSIVE", fmt.Sprintf("vid_%d", n)
	i.CreatedAt, i.StartedAt, i.EndedAt = "2026-01-15T09:00:00Z", "2026-01-15T09:00:12Z", "2026-01-15T09:09:41Z"
	i.Metadata = map[string]string{"panel": "commuters"}
	i.ActiveTime = 569
	i.RecordingURL = "https://recordings.example/" + i.ID
	v.Study.ID, v.Study.Title, v.Study.Type, v.Study.Mode = "study_123", "Commuting with our app", "VERSIVE_STUDY", "TEXT_AND_VOICE"
	v.Study.Metadata = map[string]string{}
	v.Study.CreatedAt = "2026-01-01T00:00:00Z"

	random := rand.New(rand.NewPCG(1, uint64(n)))
	var transcript strings.Builder
	say := func(content string) {
		role, name := "assistant", "Interviewer: "
		if len(i.Conversation)%2 == 1 {
			role, name = "user", "Participant: "
		}
		i.Conversation = append(i.Conversation, turn{role, content})
		transcript.WriteString(name + content + "\n")
	}
	encode := func() ([]byte, error) {
		i.Transcript = transcript.String()
		return json.Marshal(&v)
	}

	// A turn of one sentence adds up to 300 bytes; what is then still missing,
	// the last turn fills up, each of its bytes being there twice.
	const lastTurn = 400
	body, err := encode()
	for grown := len(body); err == nil && grown+lastTurn+200 < size; {
		before := transcript.Len()
		say(sentences[random.IntN(len(sentences))])
		grown += 2*(transcript.Len()-before) + 40
	}
	say("Thank you. ")
	if body, err = encode(); err != nil {
		return nil, err
	}
	if missing := size - len(body); missing > 1 {
		last := &i.Conversation[len(i.Conversation)-1].Content
		filler := strings.Repeat("That was the last question. ", missing/2/28+1)[:missing/2]
		*last += filler
		transcript.WriteString(filler)
	}
	return encode()
}
