package schema_test

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

func TestDecode(t *testing.T) {
	message := normalize(t, readFile(t, "testdata/golden/2-types-and-members/documented.json"))
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	wantEvent := schema.Event{
		ID:          svixID,
		Type:        "interview.completed",
		StudyID:     "study_123",
		InterviewID: "3fa85f64-5717-4562-b3fc-2c963f66afa6",
		Time:        time.Date(2024, 1, 1, 0, 9, 41, 0, time.UTC),
		Data:        message.Data,
	}
	if diff := cmp.Diff(wantEvent, event); diff != "" {
		t.Errorf("event (-want +got)\n%s", diff)
	}
	want := schema.InterviewCompleted{
		Type: "interview.completed",
		Interview: schema.Interview{
			ID:           "3fa85f64-5717-4562-b3fc-2c963f66afa6",
			Title:        "My Study/study_123/3fa85f64-5717-4562-b3fc-2c963f66afa6",
			Status:       "closed",
			CreatedAt:    time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC),
			StartedAt:    time.Date(2024, 1, 1, 0, 0, 12, 0, time.UTC),
			EndedAt:      time.Date(2024, 1, 1, 0, 9, 41, 0, time.UTC),
			Type:         "VERSIVE",
			Metadata:     jsontext.Value("{}"),
			ActiveTime:   "569",
			RecordingURL: "https://...",
			Transcript:   "...",
			Conversation: []schema.Turn{
				{Role: "assistant", Content: "Hello, and thanks for joining."},
				{Role: "user", Content: "Happy to help."},
			},
			VID: "vid_123",
		},
		Study: schema.Study{
			ID:        "study_123",
			Title:     "My Study",
			Metadata:  jsontext.Value("{}"),
			Type:      "VERSIVE_STUDY",
			Mode:      "TEXT_AND_VOICE",
			CreatedAt: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC),
		},
	}
	if diff := cmp.Diff(want, decodeAs(t, message)); diff != "" {
		t.Errorf("data (-want +got)\n%s", diff)
	}
}

// decodeAs decodes a message that must be an interview.completed event.
func decodeAs(t *testing.T, message schema.Message) schema.InterviewCompleted {
	t.Helper()
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	data, err := schema.DecodeAs[schema.InterviewCompleted](event)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestDecodeDefaults decodes the smallest event: null becomes a zero value.
func TestDecodeDefaults(t *testing.T) {
	message := normalize(t, body("", "", ""))
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil || !event.Time.IsZero() {
		t.Errorf("the time is %v, error %v; want none", event.Time, err)
	}
	want := schema.InterviewCompleted{
		Type:      "interview.completed",
		Interview: schema.Interview{ID: "i", Metadata: jsontext.Value("{}"), Conversation: []schema.Turn{}},
		Study:     schema.Study{ID: "s", Metadata: jsontext.Value("{}")},
	}
	if diff := cmp.Diff(want, decodeAs(t, message)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestDecodeFillsIn: an event that was stored when version 1 had fewer members
// is decoded with the defaults of those that it lacks.
func TestDecodeFillsIn(t *testing.T) {
	message := normalize(t, body("", "", ""))
	older := strings.Replace(string(message.Data), `"vid":null`, `"z":1`, 1)
	event, err := schema.Decode(message.Header, []byte(older))
	if want := strings.Replace(older, `"z":1`, `"vid":null,"z":1`, 1); err != nil || string(event.Data) != want {
		t.Errorf("got %s, %v, want %s", event.Data, err, want)
	}
}

// TestDecodeUnknown: every part of an event has the members that the schema does
// not know, byte for byte, and a consumer may keep an event and its data.
func TestDecodeUnknown(t *testing.T) {
	message := normalize(t, body(
		`,"v":1.0`,
		`,"metadata":{ "k" : 1e400 },"x":{ "\u0061" :[ 1 ]},"\u0079":"\u0062","\ud83d":"\ude00","parsed_conversation_json":[{"z":-0},{}]`,
		`,"metadata":{"n":12345678901234567890,"\ud83d":"\u0000"},"w":null`,
	))
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	before := string(message.Data)
	for i := range message.Data {
		message.Data[i] = 'x'
	}
	if string(event.Data) != before {
		t.Error("the event refers to the data of the message")
	}
	data, err := schema.DecodeAs[schema.InterviewCompleted](event)
	if err != nil {
		t.Fatal(err)
	}
	for i := range event.Data {
		event.Data[i] = 'x'
	}
	for _, test := range []struct {
		part string
		got  jsontext.Value
		want string
	}{
		{"document", data.Unknown, `{"v":1.0}`},
		{"interview", data.Interview.Unknown, `{"x":{ "\u0061" :[ 1 ]},"\u0079":"\u0062","\ud83d":"\ude00"}`},
		{"interview metadata", data.Interview.Metadata, `{ "k" : 1e400 }`},
		{"turn", data.Interview.Conversation[0].Unknown, `{"z":-0}`},
		{"turn without", data.Interview.Conversation[1].Unknown, ``},
		{"study", data.Study.Unknown, `{"w":null}`},
		{"study metadata", data.Study.Metadata, `{"n":12345678901234567890,"\ud83d":"\u0000"}`},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s: got %s, want %s", test.part, test.got, test.want)
		}
	}
}

// TestDecodeUnpairedSurrogate: a Go string has U+FFFD where JSON text has a
// surrogate escape without its pair.
func TestDecodeUnpairedSurrogate(t *testing.T) {
	data := decodeAs(t, normalize(t, body("", `,"transcript":"a\ud83db","title":"\ude00\ud83d"`, "")))
	if data.Interview.Transcript != "a\ufffdb" || data.Interview.Title != "\ufffd\ufffd" {
		t.Errorf("got %+q and %+q", data.Interview.Transcript, data.Interview.Title)
	}
}

func TestDecodeNumber(t *testing.T) {
	for _, test := range []struct {
		json string
		want schema.Number
		f    float64
	}{
		{`569`, "569", 569},
		{`569.10`, "569.10", 569.1},
		{`-0`, "-0", math.Copysign(0, -1)},
		{`12345678901234567890`, "12345678901234567890", 12345678901234567890},
		{`1e400`, "1e400", math.Inf(1)},
		{`null`, "", 0},
		{`""`, "", 0},
	} {
		message := normalize(t, body("", `,"active_time":`+test.json, ""))
		got := decodeAs(t, message).Interview.ActiveTime
		if got != test.want || got.Float64() != test.f {
			t.Errorf("%s: got %q and %v, want %q and %v", test.json, got, got.Float64(), test.want, test.f)
		}
	}
}

// TestNumberMarshals writes the digits that were read.
func TestNumberMarshals(t *testing.T) {
	for number, want := range map[schema.Number]string{"": "null", "569.10": "569.10", "-0": "-0", "1e400": "1e400"} {
		got, err := json.Marshal(number)
		if err != nil || string(got) != want {
			t.Errorf("%q: got %s, %v, want %s", number, got, err, want)
		}
	}
	if got, err := json.Marshal(schema.Number("confidential")); err == nil {
		t.Errorf("what is no number became %s", got)
	}
}

// TestDecodeGolden checks each golden event for what holds for all events.
func TestDecodeGolden(t *testing.T) {
	for _, path := range accepted(t) {
		t.Run(caseName(path), func(t *testing.T) {
			message := normalize(t, readFile(t, path))
			event, err := schema.Decode(message.Header, message.Data)
			if err != nil {
				t.Fatal(err)
			}
			subject, err := schema.ParseSubject(message.Subject("versive"))
			if err != nil {
				t.Fatal(err)
			}
			named := schema.Subject{
				Prefix:      "versive",
				Type:        event.Type,
				StudyID:     event.StudyID,
				InterviewID: event.InterviewID,
				ID:          event.ID,
			}
			if diff := cmp.Diff(named, subject); diff != "" {
				t.Errorf("subject and data differ (-data +subject)\n%s", diff)
			}
			data := decodeAs(t, message)
			if !event.Time.Equal(data.Interview.EndedAt) || data.Study.ID != event.StudyID || data.Interview.ID != event.InterviewID {
				t.Error("the event and its data differ")
			}
			for _, at := range []time.Time{
				event.Time, data.Interview.CreatedAt, data.Interview.StartedAt, data.Interview.EndedAt, data.Study.CreatedAt,
			} {
				if at.Location() != time.UTC {
					t.Errorf("%v is not in UTC", at)
				}
			}
		})
	}
}

// TestDecodeID: ids that must be encoded in a header are decoded.
func TestDecodeID(t *testing.T) {
	for _, id := range []string{"msg_1", "100%", "a%41", `a"b`, "a%22b", "a+b", "~!@#$^&*()[]{}<>.,;:'/\\|`?="} {
		message, err := schema.Normalize(id, body("", "", ""))
		if err != nil {
			t.Fatal(err)
		}
		event, err := schema.Decode(message.Header, message.Data)
		if err != nil || event.ID != id {
			t.Errorf("got %q, %v, want %q", event.ID, err, id)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	message := normalize(t, body("", `,"title":"confidential"`, ""))
	without := func(name string) map[string][]string {
		header := maps.Clone(message.Header)
		delete(header, name)
		return header
	}
	with := func(name, value string) map[string][]string {
		header := maps.Clone(message.Header)
		header[name] = []string{value}
		return header
	}
	data := string(message.Data)
	replaced := func(old, new string) string {
		if !strings.Contains(data, old) {
			t.Fatalf("%s is not in the data", old)
		}
		return strings.Replace(data, old, new, 1)
	}
	for _, test := range []struct {
		name   string
		header map[string][]string
		data   string
		want   string
	}{
		{"no headers", nil, data, `ce-dataschema is "", which`},
		{"no ce-dataschema", without("ce-dataschema"), data, `ce-dataschema is "", which`},
		{"foreign ce-dataschema", with("ce-dataschema", "urn:example:1"), data, `ce-dataschema is "urn:example:1", which is not a known event type and version`},
		{"later ce-dataschema", with("ce-dataschema", "urn:versive-ingress:interview.completed:2"), data, "completed:2"},
		{"ce-dataschema in other case", map[string][]string{"Ce-Dataschema": {schemaURN}, "Ce-Id": {"a"}}, data, `ce-dataschema is ""`},
		{"no ce-id", without("ce-id"), data, "no ce-id header"},
		{"empty ce-id", with("ce-id", ""), data, "no ce-id header"},
		{"ce-id without a value", map[string][]string{"ce-dataschema": {schemaURN}, "ce-id": {}}, data, "no ce-id header"},
		{"no data", message.Header, "", "body is empty"},
		{"truncated", message.Header, data[:len(data)/2], "ends in the middle"},
		{"not JSON", message.Header, "confidential", "not valid JSON"},
		{"trailing data", message.Header, data + `"confidential"`, "data after"},
		{"duplicate member", message.Header, replaced(`"study":`, `"event_type":"confidential","study":`), "duplicate member"},
		{"null", message.Header, "null", "is null, want an object"},
		{"empty object", message.Header, "{}", "not a known event type"},
		{"other type", message.Header, replaced(`"interview.completed"`, `"confidential"`), "not a known event type"},
		{"no interview id", message.Header, replaced(`"id":"i"`, `"id":""`), "/interview/id is required"},
		{"no study", message.Header, replaced(`"study":`, `"confidential":`), "/study/id is required"},
		{"array", message.Header, "[" + data + "]", "is an array, want an object"},
		{"wrong type", message.Header, replaced(`"confidential"`, `["confidential"]`), "/interview/title is an array"},
		{"wrong number", message.Header, replaced(`"active_time":null`, `"active_time":"confidential"`), "/interview/active_time is a string"},
		{"wrong time", message.Header, replaced(`"created_at":null`, `"created_at":"confidential"`), "/interview/created_at is not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			event, err := schema.Decode(test.header, []byte(test.data))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(schema.Event{}, event); diff != "" {
				t.Errorf("an event is returned with the error (-want +got)\n%s", diff)
			}
			if !strings.HasPrefix(err.Error(), "decoding event") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "confidential") {
				t.Errorf("content in the error: %v", err)
			}
		})
	}
}

// TestDecodeForeignID: an id that another producer has not encoded is kept.
func TestDecodeForeignID(t *testing.T) {
	message := normalize(t, body("", "", ""))
	message.Header["ce-id"] = []string{"100%"}
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil || event.ID != "100%" {
		t.Errorf("got %q, %v", event.ID, err)
	}
}

// TestDecodeAsErrors: data is decoded as the type that belongs to it only.
func TestDecodeAsErrors(t *testing.T) {
	message := normalize(t, body("", "", ""))
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	_, err = schema.DecodeAs[schema.Study](event)
	if want := `decoding event "` + svixID + `": schema.Study is not the data of interview.completed`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	event.Data = []byte(`{"interview":"confidential"}`)
	if _, err := schema.DecodeAs[schema.InterviewCompleted](event); err == nil || strings.Contains(err.Error(), "confidential") {
		t.Errorf("got %v", err)
	}
}
