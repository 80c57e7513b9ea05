package schema_test

import (
	"errors"
	"fmt"

	"versive-ingress/schema"
)

func ExampleNormalize() {
	message, err := schema.Normalize("msg_1", []byte(`{
		"event_type": "interview.completed",
		"interview": {"id": "3fa85f64", "ended_at": "2024-01-01 01:09:41.50+01:00", "language": "en"},
		"study": {"id": "study_123"}
	}`))
	if err != nil {
		panic(err)
	}
	fmt.Println(message.Subject("versive"))
	fmt.Println(message.Header["ce-time"])
	fmt.Println(string(message.Data))
	// Output:
	// versive.interview.completed.study_123.3fa85f64.msg_1
	// [2024-01-01T00:09:41.5Z]
	// {"event_type":"interview.completed","interview":{"id":"3fa85f64","title":"","status":"","is_mock":false,"is_archived":false,"created_at":null,"started_at":null,"ended_at":"2024-01-01T00:09:41.5Z","type":"","metadata":{},"active_time":null,"recording_url":null,"transcript":"","parsed_conversation_json":[],"vid":null,"language":"en"},"study":{"id":"study_123","title":"","metadata":{},"type":"","mode":"","created_at":null}}
}

// A body that is authentic but cannot be normalized is kept raw.
func ExampleQuarantine() {
	body := []byte(`{"event_type": "interview.started"}`)
	_, err := schema.Normalize("msg_1", body)
	if reason, ok := errors.AsType[*schema.Error](err); ok {
		message := schema.Quarantine("msg_1", body, reason, nil)
		fmt.Println(message.Subject("versive"))
		fmt.Println(message.Header[schema.HeaderReason], message.Header[schema.HeaderDescription])
	}
	// Output:
	// versive-quarantine.msg_1
	// [unsupported_type] [/event_type is not a known event type]
}

func ExampleDecode() {
	stored, err := schema.Normalize("msg_1", []byte(`{
		"event_type": "interview.completed",
		"interview": {
			"id": "3fa85f64",
			"active_time": 569,
			"parsed_conversation_json": [{"role": "Assistant", "content": "Hello, and thanks for joining."}],
			"language": "en"
		},
		"study": {"id": "study_123", "title": "My Study"}
	}`))
	if err != nil {
		panic(err)
	}

	event, err := schema.Decode(stored.Header, stored.Data)
	if err != nil {
		panic(err)
	}
	completed, err := schema.DecodeAs[schema.InterviewCompleted](event)
	if err != nil {
		panic(err)
	}
	fmt.Println(event.ID, event.Type, completed.Study.Title)
	fmt.Println(completed.Interview.ActiveTime.Float64(), completed.Interview.EndedAt.IsZero())
	for _, turn := range completed.Interview.Conversation {
		fmt.Println(turn.Role+":", turn.Content)
	}
	fmt.Println(completed.Interview.Unknown)
	// Output:
	// msg_1 interview.completed My Study
	// 569 true
	// assistant: Hello, and thanks for joining.
	// {"language":"en"}
}

func ExampleParseSubject() {
	subject, err := schema.ParseSubject("versive.interview.completed.study%2E123.3fa85f64.msg_1")
	if err != nil {
		panic(err)
	}
	fmt.Println(subject.Type, subject.StudyID, subject.InterviewID, subject.ID)
	// Output:
	// interview.completed study.123 3fa85f64 msg_1
}
