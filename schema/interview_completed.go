package schema

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

var _ = register[InterviewCompleted]("interview.completed", 1)

// InterviewCompleted is the data of an interview.completed event: an interview
// was completed, and the vendor has enriched it. Get it from an event with
// [DecodeAs].
//
// In each of its parts, Unknown holds the members that this version of the
// schema does not know: one JSON object with the members' bytes unchanged, or
// nil if there are none. An InterviewCompleted refers to no memory of the
// message or the event that it was decoded from.
type InterviewCompleted struct {
	Type      string         `json:"event_type"` // "interview.completed"
	Interview Interview      `json:"interview"`
	Study     Study          `json:"study"`
	Unknown   jsontext.Value `json:",embed"`
}

// Interview is an interview with one participant. Times are in UTC, and zero if
// the vendor sent none.
type Interview struct {
	ID           string         `json:"id" field:"interview_id"`
	Title        string         `json:"title"`
	Status       string         `json:"status"`
	IsMock       bool           `json:"is_mock"`
	IsArchived   bool           `json:"is_archived"`
	CreatedAt    time.Time      `json:"created_at"`
	StartedAt    time.Time      `json:"started_at"`
	EndedAt      time.Time      `json:"ended_at" field:"time"`
	Type         string         `json:"type"`
	Metadata     jsontext.Value `json:"metadata"`                       // a JSON object
	ActiveTime   Number         `json:"active_time"`                    // in seconds; "" if the vendor sent none
	RecordingURL string         `json:"recording_url" field:"optional"` // "" if there is no recording
	Transcript   string         `json:"transcript"`
	Conversation []Turn         `json:"parsed_conversation_json"`
	VID          string         `json:"vid" field:"optional"` // "" if the vendor sent none
	Unknown      jsontext.Value `json:",embed"`
}

// Turn is one utterance of a conversation.
type Turn struct {
	Role    string         `json:"role" field:"lower_case"` // in lower case: "assistant" or "user"
	Content string         `json:"content"`
	Unknown jsontext.Value `json:",embed"`
}

// Study is the study that an interview belongs to. CreatedAt is in UTC, and
// zero if the vendor sent none.
type Study struct {
	ID        string         `json:"id" field:"study_id"`
	Title     string         `json:"title"`
	Metadata  jsontext.Value `json:"metadata"` // a JSON object
	Type      string         `json:"type"`
	Mode      string         `json:"mode"`
	CreatedAt time.Time      `json:"created_at"`
	Unknown   jsontext.Value `json:",embed"`
}
