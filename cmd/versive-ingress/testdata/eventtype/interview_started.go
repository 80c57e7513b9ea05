package schema

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

var _ = register[InterviewStarted](eventType{
	name:        "interview.started",
	version:     1,
	studyID:     "/study/id",
	interviewID: "/interview/id",
	time:        "/interview/started_at",
	fields: []field{
		{name: "interview", fieldType: object, fields: []field{
			{name: "id", fieldType: identity},
			{name: "started_at", fieldType: timestamp},
		}},
		{name: "study", fieldType: object, fields: []field{
			{name: "id", fieldType: identity},
		}},
	},
})

// InterviewStarted is the data of an interview.started event.
type InterviewStarted struct {
	Type      string           `json:"event_type"` // "interview.started"
	Interview StartedInterview `json:"interview"`
	Study     StartedStudy     `json:"study"`
	Unknown   jsontext.Value   `json:",embed"`
}

// StartedInterview is the interview that was started.
type StartedInterview struct {
	ID        string         `json:"id"`
	StartedAt time.Time      `json:"started_at"`
	Unknown   jsontext.Value `json:",embed"`
}

// StartedStudy is the study that the interview belongs to.
type StartedStudy struct {
	ID      string         `json:"id"`
	Unknown jsontext.Value `json:",embed"`
}
