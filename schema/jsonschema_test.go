package schema_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestJSONSchemaRefuses checks that the schema refuses data that breaks one rule
// of the canonical form.
func TestJSONSchemaRefuses(t *testing.T) {
	validate := jsonSchema(t)
	canonical := string(normalize(t, readFile(t, "testdata/golden/2-types-and-members/documented.json")).Data)
	if err := validate([]byte(canonical)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new string }{
		{"array", canonical, `[]`},
		{"other type", `"interview.completed"`, `"interview.started"`},
		{"type absent", `"event_type"`, `"type"`},
		{"interview null", canonical, `{"event_type":"interview.completed","interview":null,"study":{}}`},
		{"study absent", `"study":`, `"project":`},
		{"id empty", `"id":"study_123"`, `"id":""`},
		{"id null", `"id":"study_123"`, `"id":null`},
		{"id number", `"id":"study_123"`, `"id":123`},
		{"id absent", `"id":"study_123",`, ``},
		{"id too long", `"study_123","title"`, `"` + strings.Repeat("x", 257) + `","title"`},
		{"text null", `"transcript":"..."`, `"transcript":null`},
		{"text absent", `"transcript":"...",`, ``},
		{"boolean null", `"is_mock":false`, `"is_mock":null`},
		{"boolean text", `"is_mock":false`, `"is_mock":"false"`},
		{"boolean absent", `"is_mock":false,`, ``},
		{"timestamp absent", `"ended_at":"2024-01-01T00:09:41Z",`, ``},
		{"timestamp empty", `"2024-01-01T00:09:41Z"`, `""`},
		{"timestamp number", `"2024-01-01T00:09:41Z"`, `1704067781`},
		{"timestamp with offset", `00:09:41Z`, `00:09:41+00:00`},
		{"timestamp without zone", `00:09:41Z`, `00:09:41`},
		{"timestamp in lower case", `00:09:41Z`, `00:09:41z`},
		{"timestamp with space", `2024-01-01T00:09:41Z`, `2024-01-01 00:09:41Z`},
		{"timestamp with trailing zero", `00:09:41Z`, `00:09:41.10Z`},
		{"timestamp with zero fraction", `00:09:41Z`, `00:09:41.0Z`},
		{"timestamp with empty fraction", `00:09:41Z`, `00:09:41.Z`},
		{"timestamp with ten digits", `00:09:41Z`, `00:09:41.1234567891Z`},
		{"timestamp in month 13", `2024-01-01T00:09:41Z`, `2024-13-01T00:09:41Z`},
		{"timestamp on day 32", `2024-01-01T00:09:41Z`, `2024-01-32T00:09:41Z`},
		{"timestamp at 24:00", `00:09:41Z`, `24:00:00Z`},
		{"timestamp with leap second", `00:09:41Z`, `23:59:60Z`},
		{"timestamp with a line break after it", `00:09:41Z"`, `00:09:41Z\n"`},
		{"timestamp on 30 February, by its format", `2024-01-01T00:09:41Z`, `2024-02-30T00:09:41Z`},
		{"metadata null", `"metadata":{}`, `"metadata":null`},
		{"metadata array", `"metadata":{}`, `"metadata":[]`},
		{"metadata absent", `"metadata":{},"active_time"`, `"active_time"`},
		{"active_time text", `569`, `"569"`},
		{"active_time empty", `569`, `""`},
		{"active_time absent", `"active_time":569,`, ``},
		{"recording_url empty", `"https://..."`, `""`},
		{"recording_url number", `"https://..."`, `0`},
		{"recording_url absent", `"recording_url":"https://...",`, ``},
		{"vid empty", `"vid_123"`, `""`},
		{"conversation null", `[{"role"`, `null,"x":[{"role"`},
		{"conversation object", `[{"role"`, `{},"x":[{"role"`},
		{"turn null", `[{"role"`, `[null,{"role"`},
		{"turn text", `[{"role"`, `["Hello",{"role"`},
		{"role upper case", `"assistant"`, `"Assistant"`},
		{"role null", `"assistant"`, `null`},
		{"role absent", `"role":"assistant",`, ``},
		{"content absent", `,"content":"Happy to help."`, ``},
		{"content null", `"Happy to help."`, `null`},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := strings.Replace(canonical, test.old, test.new, 1)
			if changed == canonical || !json.Valid([]byte(changed)) {
				t.Fatalf("the case does not change the data, or breaks it: %s", changed)
			}
			if validate([]byte(changed)) == nil {
				t.Error("accepted")
			}
		})
	}
}
