package schema

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

var _ = register[StudyCreated](eventType{
	name:    "study.created",
	version: 1,
	studyID: "/study/id",
	time:    "/study/created_at",
	fields: []field{
		{name: "study", fieldType: object, fields: []field{
			{name: "id", fieldType: identity},
			{name: "title", fieldType: text},
			{name: "created_at", fieldType: timestamp},
			{name: "questions", fieldType: list, fields: []field{
				{name: "text", fieldType: text},
				{name: "author", fieldType: object, fields: []field{
					{name: "name", fieldType: text},
					{name: "role", fieldType: lowerCase},
				}},
			}},
		}},
	},
})

// StudyCreated is the data of a study.created event.
type StudyCreated struct {
	Type    string         `json:"event_type"` // "study.created"
	Study   CreatedStudy   `json:"study"`
	Unknown jsontext.Value `json:",embed"`
}

// CreatedStudy is the study that was created.
type CreatedStudy struct {
	ID        string         `json:"id"`
	Title     string         `json:"title"`
	CreatedAt time.Time      `json:"created_at"`
	Questions []Question     `json:"questions"`
	Unknown   jsontext.Value `json:",embed"`
}

// Question is a question of a study.
type Question struct {
	Text    string         `json:"text"`
	Author  Author         `json:"author"`
	Unknown jsontext.Value `json:",embed"`
}

// Author is who has written a question.
type Author struct {
	Name    string         `json:"name"`
	Role    string         `json:"role"` // in lower case
	Unknown jsontext.Value `json:",embed"`
}
