package schema_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

// TestJSONSchemaRefuses shows that the schema can fail: each case breaks one
// rule of the canonical form.
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
		{"timestamp with more behind", `00:09:41Z"`, `00:09:41Z\n"`},
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
				t.Fatalf("the case does not do what it says: %s", changed)
			}
			if validate([]byte(changed)) == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestJSONSchemaNamesItself: consumers fetch the schema by the URN in
// ce-dataschema.
func TestJSONSchemaNamesItself(t *testing.T) {
	var document struct {
		Schema string `json:"$schema"`
		ID     string `json:"$id"`
	}
	if err := json.Unmarshal(schema.JSONSchema, &document); err != nil {
		t.Fatal(err)
	}
	if document.ID != schema.SchemaURN {
		t.Errorf("$id is %s, want %s", document.ID, schema.SchemaURN)
	}
	if want := "https://json-schema.org/draft/2020-12/schema"; document.Schema != want {
		t.Errorf("$schema is %s, want %s", document.Schema, want)
	}
}

// TestJSONSchemaIsComplete compares the schema with what Normalize writes for
// the smallest body: the same members, all of them required, described, and
// with others beside them allowed.
func TestJSONSchemaIsComplete(t *testing.T) {
	type object struct {
		Description          string                                  `json:"description"`
		Properties           map[string]struct{ Description string } `json:"properties"`
		Required             []string                                `json:"required"`
		AdditionalProperties bool                                    `json:"additionalProperties"`
	}
	var document struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(schema.JSONSchema, &document); err != nil {
		t.Fatal(err)
	}
	var event struct {
		Interview map[string]json.RawMessage `json:"interview"`
		Study     map[string]json.RawMessage `json:"study"`
	}
	var all map[string]json.RawMessage
	data := normalize(t, body("", "", "")).Data
	if err := json.Unmarshal(data, &event); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		object object
		want   map[string]json.RawMessage
	}{
		"document":  {document.object, all},
		"interview": {document.Defs["interview"], event.Interview},
		"study":     {document.Defs["study"], event.Study},
		"turn":      {document.Defs["turn"], map[string]json.RawMessage{"role": nil, "content": nil}},
	} {
		want := slices.Sorted(maps.Keys(test.want))
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(test.object.Properties))); diff != "" {
			t.Errorf("%s: properties (-canonical +schema)\n%s", name, diff)
		}
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(test.object.Required))); diff != "" {
			t.Errorf("%s: required (-canonical +schema)\n%s", name, diff)
		}
		if !test.object.AdditionalProperties || test.object.Description == "" {
			t.Errorf("%s: unknown members are not allowed, or it is not described", name)
		}
		for member, property := range test.object.Properties {
			if property.Description == "" {
				t.Errorf("%s: %s is not described", name, member)
			}
		}
	}
}
