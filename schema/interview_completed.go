package schema

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

var _ = register[InterviewCompleted](eventType{
	name:        "interview.completed",
	version:     1,
	studyID:     "/study/id",
	interviewID: "/interview/id",
	time:        "/interview/ended_at",
	fields: []field{
		{name: "interview", fieldType: object, fields: []field{
			{name: "id", fieldType: identity},
			{name: "title", fieldType: text},
			{name: "status", fieldType: text},
			{name: "is_mock", fieldType: boolean},
			{name: "is_archived", fieldType: boolean},
			{name: "created_at", fieldType: timestamp},
			{name: "started_at", fieldType: timestamp},
			{name: "ended_at", fieldType: timestamp},
			{name: "type", fieldType: text},
			{name: "metadata", fieldType: freeForm},
			{name: "active_time", fieldType: number},
			{name: "recording_url", fieldType: optional},
			{name: "transcript", fieldType: text},
			{name: "parsed_conversation_json", fieldType: list, fields: []field{
				{name: "role", fieldType: lowerCase},
				{name: "content", fieldType: text},
			}},
			{name: "vid", fieldType: optional},
		}},
		{name: "study", fieldType: object, fields: []field{
			{name: "id", fieldType: identity},
			{name: "title", fieldType: text},
			{name: "metadata", fieldType: freeForm},
			{name: "type", fieldType: text},
			{name: "mode", fieldType: text},
			{name: "created_at", fieldType: timestamp},
		}},
	},
})

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
	ID           string         `json:"id"`
	Title        string         `json:"title"`
	Status       string         `json:"status"`
	IsMock       bool           `json:"is_mock"`
	IsArchived   bool           `json:"is_archived"`
	CreatedAt    time.Time      `json:"created_at"`
	StartedAt    time.Time      `json:"started_at"`
	EndedAt      time.Time      `json:"ended_at"`
	Type         string         `json:"type"`
	Metadata     jsontext.Value `json:"metadata"`      // a JSON object
	ActiveTime   Number         `json:"active_time"`   // in seconds; "" if the vendor sent none
	RecordingURL string         `json:"recording_url"` // "" if there is no recording
	Transcript   string         `json:"transcript"`
	Conversation []Turn         `json:"parsed_conversation_json"`
	VID          string         `json:"vid"` // "" if the vendor sent none
	Unknown      jsontext.Value `json:",embed"`
}

// Turn is one utterance of a conversation.
type Turn struct {
	Role    string         `json:"role"` // in lower case: "assistant" or "user"
	Content string         `json:"content"`
	Unknown jsontext.Value `json:",embed"`
}

// Study is the study that an interview belongs to. CreatedAt is in UTC, and
// zero if the vendor sent none.
type Study struct {
	ID        string         `json:"id"`
	Title     string         `json:"title"`
	Metadata  jsontext.Value `json:"metadata"` // a JSON object
	Type      string         `json:"type"`
	Mode      string         `json:"mode"`
	CreatedAt time.Time      `json:"created_at"`
	Unknown   jsontext.Value `json:",embed"`
}
