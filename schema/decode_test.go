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
	got, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	want := schema.Event{
		ID:   svixID,
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
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestDecodeDefaults reads the smallest event: what is null is a zero value.
func TestDecodeDefaults(t *testing.T) {
	message := normalize(t, body("", "", ""))
	got, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	want := schema.Event{
		ID:        svixID,
		Type:      "interview.completed",
		Interview: schema.Interview{ID: "i", Metadata: jsontext.Value("{}"), Conversation: []schema.Turn{}},
		Study:     schema.Study{ID: "s", Metadata: jsontext.Value("{}")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestDecodeUnknown holds every part to its promise: what the schema does not
// know is there, byte for byte, and a consumer may keep it.
func TestDecodeUnknown(t *testing.T) {
	message := normalize(t, body(
		`,"v":1.0`,
		`,"metadata":{ "k" : 1e400 },"x":{ "\u0061" :[ 1 ]},"\u0079":"\u0062","parsed_conversation_json":[{"z":-0},{}]`,
		`,"metadata":{"n":12345678901234567890},"w":null`,
	))
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range message.Data {
		message.Data[i] = 'x'
	}
	for _, test := range []struct {
		part string
		got  jsontext.Value
		want string
	}{
		{"document", event.Unknown, `{"v":1.0}`},
		{"interview", event.Interview.Unknown, `{"x":{ "\u0061" :[ 1 ]},"\u0079":"\u0062"}`},
		{"interview metadata", event.Interview.Metadata, `{ "k" : 1e400 }`},
		{"turn", event.Interview.Conversation[0].Unknown, `{"z":-0}`},
		{"turn without", event.Interview.Conversation[1].Unknown, ``},
		{"study", event.Study.Unknown, `{"w":null}`},
		{"study metadata", event.Study.Metadata, `{"n":12345678901234567890}`},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s: got %s, want %s", test.part, test.got, test.want)
		}
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
		event, err := schema.Decode(message.Header, message.Data)
		if err != nil {
			t.Fatal(err)
		}
		got := event.Interview.ActiveTime
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

// TestDecodeGolden says of every golden event what is true of all of them.
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
				StudyID:     event.Study.ID,
				InterviewID: event.Interview.ID,
				ID:          event.ID,
			}
			if diff := cmp.Diff(named, subject); diff != "" {
				t.Errorf("subject and data differ (-data +subject)\n%s", diff)
			}
			for _, at := range []time.Time{
				event.Interview.CreatedAt, event.Interview.StartedAt, event.Interview.EndedAt, event.Study.CreatedAt,
			} {
				if at.Location() != time.UTC {
					t.Errorf("%v is not in UTC", at)
				}
			}
		})
	}
}

// TestDecodeID gives back the ids that a header cannot hold as they are.
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
		{"no headers", nil, data, `ce-dataschema is "", want`},
		{"no ce-dataschema", without("ce-dataschema"), data, `ce-dataschema is "", want`},
		{"foreign ce-dataschema", with("ce-dataschema", "urn:example:1"), data, `ce-dataschema is "urn:example:1", want "urn:versive-ingress:interview.completed:1"`},
		{"later ce-dataschema", with("ce-dataschema", "urn:versive-ingress:interview.completed:2"), data, "completed:2"},
		{"ce-dataschema in other case", map[string][]string{"Ce-Dataschema": {schema.SchemaURN}, "Ce-Id": {"a"}}, data, `ce-dataschema is ""`},
		{"no ce-id", without("ce-id"), data, "no ce-id header"},
		{"empty ce-id", with("ce-id", ""), data, "no ce-id header"},
		{"ce-id without a value", map[string][]string{"ce-dataschema": {schema.SchemaURN}, "ce-id": {}}, data, "no ce-id header"},
		{"no data", message.Header, "", "not valid JSON"},
		{"truncated", message.Header, data[:len(data)/2], "not valid JSON"},
		{"not JSON", message.Header, "confidential", "not valid JSON"},
		{"trailing data", message.Header, data + `"confidential"`, "not valid JSON"},
		{"duplicate member", message.Header, replaced(`"study":`, `"event_type":"confidential","study":`), "not valid JSON"},
		{"null", message.Header, "null", "required member is missing"},
		{"empty object", message.Header, "{}", "required member is missing"},
		{"other type", message.Header, replaced(`"interview.completed"`, `"confidential"`), "required member is missing"},
		{"no interview id", message.Header, replaced(`"id":"i"`, `"id":""`), "required member is missing"},
		{"no study", message.Header, replaced(`"study":`, `"confidential":`), "required member is missing"},
		{"array", message.Header, "[" + data + "]", "wrong type at byte 0"},
		{"wrong type", message.Header, replaced(`"confidential"`, `["confidential"]`), "wrong type at byte"},
		{"wrong number", message.Header, replaced(`"active_time":null`, `"active_time":"confidential"`), "wrong type at byte"},
		{"wrong time", message.Header, replaced(`"created_at":null`, `"created_at":"confidential"`), "wrong type at byte"},
	} {
		t.Run(test.name, func(t *testing.T) {
			event, err := schema.Decode(test.header, []byte(test.data))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(schema.Event{}, event); diff != "" {
				t.Errorf("an event comes with the error (-want +got)\n%s", diff)
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

// TestDecodeForeignID keeps an id that another producer did not encode.
func TestDecodeForeignID(t *testing.T) {
	message := normalize(t, body("", "", ""))
	message.Header["ce-id"] = []string{"100%"}
	event, err := schema.Decode(message.Header, message.Data)
	if err != nil || event.ID != "100%" {
		t.Errorf("got %q, %v", event.ID, err)
	}
}
