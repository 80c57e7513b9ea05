package schema

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// TestEventTypes holds what is written about each event type against its entry
// in the registry: its JSON Schema, the AsyncAPI document and docs/consumers.md.
func TestEventTypes(t *testing.T) {
	asyncAPI, consumers := readText(t, "asyncapi.json"), readText(t, "../docs/consumers.md")
	for _, e := range eventTypes {
		t.Run(e.name, func(t *testing.T) {
			file := fmt.Sprintf("%s.v%d.json", e.name, e.version)
			root := jsontext.Value(readText(t, file))
			for pointer, want := range map[string]string{
				"/$schema":                     "https://json-schema.org/draft/2020-12/schema",
				"/$id":                         e.urn,
				"/title":                       e.name,
				"/properties/event_type/const": e.name,
			} {
				if got := lookup(root, pointer); string(got) != string(quote(want)) {
					t.Errorf("%s: %s is %s, want %q", file, pointer, got, want)
				}
			}
			checkJSONSchema(t, file+"#", root, root, e.fields)

			address := Subject{Prefix: "versive", Type: e.name, ID: "{svix_id}"}
			if e.studyID != "" {
				address.StudyID = "{study_id}"
			}
			if e.interviewID != "" {
				address.InterviewID = "{interview_id}"
			}
			subject := strings.NewReplacer("%7B", "{", "%7D", "}").Replace(address.String())
			for _, want := range []string{
				`"address": "` + subject + `"`,
				`"$ref": "` + file + `"`,
				`"` + typePrefix + e.name + `"`,
				`"` + e.urn + `"`,
			} {
				if !strings.Contains(asyncAPI, want) {
					t.Errorf("asyncapi.json lacks %s", want)
				}
			}

			documented := strings.NewReplacer("{study_id}", "<study id>", "{interview_id}", "<interview id>", "{svix_id}", "<svix-id>").Replace(subject)
			row := fmt.Sprintf("| `%s` | `%s` | `%s` | [`%s`](../schema/%s) | `schema.%s` |", e.name, documented, typePrefix+e.name, e.urn, file, e.data.Name())
			if !strings.Contains(consumers, row) {
				t.Errorf("docs/consumers.md lacks the row\n%s", row)
			}
		})
	}
}

// checkJSONSchema compares the schema of an object with its fields: the same
// names in the same order, of the same types, all required and described, and
// unknown members allowed.
func checkJSONSchema(t *testing.T, at string, root, node jsontext.Value, fields []field) {
	t.Helper()
	var described struct {
		Description          string
		Required             []string
		AdditionalProperties bool
	}
	decode(t, node, &described)
	if described.Description == "" || !described.AdditionalProperties {
		t.Errorf("%s has no description, or does not allow unknown members", at)
	}
	if want := fieldNames(fields); !slices.Equal(want, described.Required) {
		t.Errorf("%s: required (-fields +schema)\n%s", at, cmp.Diff(want, described.Required))
	}
	properties := lookup(node, "/properties")
	var names []string
	for c := (cursor{json: properties, pos: 1}); c.peek() != '}'; c.next() {
		names = append(names, textOf(c.next()))
	}
	if want := fieldNames(fields); !slices.Equal(want, names) {
		t.Fatalf("%s: properties (-fields +schema)\n%s", at, cmp.Diff(want, names))
	}
	for i := range fields {
		f, at := &fields[i], at+"/"+fields[i].name
		property := lookup(properties, "/"+f.name)
		if lookup(property, "/description") == nil {
			t.Errorf("%s is not described", at)
		}
		property = resolve(root, property)
		if lookup(property, "/const") == nil {
			if got := typesIn(t, property); !slices.Equal(got, f.jsonTypes()) {
				t.Errorf("%s is %v, and the field %v", at, got, f.jsonTypes())
			}
		}
		switch f.fieldType {
		case object:
			checkJSONSchema(t, at, root, property, f.fields)
		case list:
			checkJSONSchema(t, at+"/*", root, resolve(root, lookup(property, "/items")), f.fields)
		}
	}
}

// resolve follows a reference within the document.
func resolve(root, node jsontext.Value) jsontext.Value {
	if ref := lookup(node, "/$ref"); ref != nil {
		return lookup(root, strings.TrimPrefix(textOf(ref), "#"))
	}
	return node
}

// typesIn returns the types that a schema names, in one or in a list.
func typesIn(t *testing.T, node jsontext.Value) (types []string) {
	t.Helper()
	if value := lookup(node, "/type"); value.Kind() == '"' {
		return []string{textOf(value)}
	} else if value != nil {
		decode(t, value, &types)
	}
	return types
}

// jsonTypes returns the types that canonical values of a field have.
func (t *fieldType) jsonTypes() []string {
	types := []string{map[jsontext.Kind]string{'"': "string", '0': "number", 't': "boolean", '{': "object", '[': "array"}[t.kind]}
	if string(t.zero) == "null" {
		types = append(types, "null")
	}
	return types
}

func fieldNames(fields []field) []string {
	var names []string
	for i := range fields {
		names = append(names, fields[i].name)
	}
	return names
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func decode(t *testing.T, value jsontext.Value, into any) {
	t.Helper()
	if err := json.Unmarshal(value, into); err != nil {
		t.Fatalf("%s: %v", value, err)
	}
}

// TestShapes normalizes bodies by tables that no event type has yet.
func TestShapes(t *testing.T) {
	var many []field
	var defaults []string
	for i := range 40 {
		many = append(many, field{name: fmt.Sprint("m", i), fieldType: text})
		defaults = append(defaults, fmt.Sprintf(`"m%d":""`, i))
	}
	speaker := field{name: "speaker", fieldType: object, fields: []field{{name: "name", fieldType: text}, {name: "age", fieldType: number}}}
	turns := field{name: "turns", fieldType: list, fields: []field{speaker, {name: "content", fieldType: text}}}
	for _, test := range []struct {
		name       string
		fields     []field
		body, want string
	}{
		{
			"object in a list",
			[]field{turns},
			`{"turns":[{"speaker":{"name":"a"},"content":"b"},{"x":1,"speaker":{"y":2,"age":3}},{"content":"c"}]}`,
			`{"turns":[{"speaker":{"name":"a","age":null},"content":"b"},{"speaker":{"name":"","age":3,"y":2},"content":"","x":1},{"speaker":{"name":"","age":null},"content":"c"}]}`,
		},
		{
			"list in a list",
			[]field{{name: "rounds", fieldType: list, fields: []field{turns}}},
			`{"rounds":[{},{"turns":[{"speaker":null},{}]},{"turns":{}}]}`,
			`{"rounds":[{"turns":[]},{"turns":[{"speaker":{"name":"","age":null},"content":""},{"speaker":{"name":"","age":null},"content":""}]},{"turns":[]}]}`,
		},
		{"object that is absent", []field{speaker}, `{}`, `{"speaker":{"name":"","age":null}}`},
		{
			"objects in an object that is absent",
			[]field{{name: "outer", fieldType: object, fields: []field{speaker, turns}}},
			`{"outer":null}`,
			`{"outer":{"speaker":{"name":"","age":null},"turns":[]}}`,
		},
		{"many members", many, `{}`, `{` + strings.Join(defaults, ",") + `}`},
		{
			"many members in objects in lists",
			[]field{{name: "list", fieldType: list, fields: many}},
			`{"list":[{},{"z":1}]}`,
			`{"list":[{` + strings.Join(defaults, ",") + `},{` + strings.Join(defaults, ",") + `,"z":1}]}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			once := canonical(t, test.fields, test.body)
			if once != test.want {
				t.Errorf("got  %s\nwant %s", once, test.want)
			}
			if twice := canonical(t, test.fields, once); twice != once {
				t.Errorf("normalizing it again gives %s", twice)
			}
		})
	}
}

// TestShapesRefused: a problem is named by its place, however deep.
func TestShapesRefused(t *testing.T) {
	fields := []field{{name: "rounds", fieldType: list, fields: []field{
		{name: "turns", fieldType: list, fields: []field{{name: "speaker", fieldType: object, fields: []field{{name: "id", fieldType: identity}}}}},
	}}}
	for body, want := range map[string]string{
		`{"rounds":[{},{"turns":[{"speaker":{"id":"a"}},{"speaker":{"id":7}}]}]}`: "/rounds/1/turns/1/speaker/id is a number, want a string",
		`{"rounds":[{"turns":[{}]}]}`:                          "/rounds/0/turns/0/speaker/id is required",
		`{"rounds":[{"turns":[{"speaker":{"id":"a"}},true]}]}`: "/rounds/0/turns/1 is a boolean, want an object",
	} {
		if _, problem := parseAs(fields, body); problem == nil || problem.Description() != want {
			t.Errorf("%s: got %v, want %s", body, problem, want)
		}
	}
}

// canonical returns the canonical form of a body by a table of fields.
func canonical(t *testing.T, fields []field, body string) string {
	t.Helper()
	data, problem := parseAs(fields, body)
	if problem != nil {
		t.Fatal(problem)
	}
	return string(data)
}

func parseAs(fields []field, body string) ([]byte, *Error) {
	label(fields)
	root, problem := check([]byte(body))
	if problem != nil {
		return nil, problem
	}
	w := writer{limit: len(body) + MaxGrowth}
	return w.object(nil, &cursor{json: root}, fields)
}

// label sets what fieldsOf sets.
func label(fields []field) {
	for i := range fields {
		fields[i].label = fmt.Appendf(nil, ",%q:", fields[i].name)
		label(fields[i].fields)
	}
}

// TestRegisterRefuses: an event type that contradicts itself ends the program.
func TestRegisterRefuses(t *testing.T) {
	type sound struct {
		ID string `json:"id" field:"study_id"`
	}
	for name, register := range map[string]func(){
		"name of one word":    func() { register[sound]("a", 1) },
		"name of three words": func() { register[sound]("a.b.c", 1) },
		"name that is taken":  func() { register[sound]("interview.completed", 1) },
		"no version":          func() { register[sound]("a.b", 0) },
		"no ids": func() {
			register[struct {
				ID string `json:"id"`
			}]("a.b", 1)
		},
		"id in a list": func() {
			register[struct {
				List []sound `json:"list"`
			}]("a.b", 1)
		},
		"time that is no time": func() {
			register[struct {
				ID string `json:"id" field:"study_id"`
				At string `json:"at" field:"time"`
			}]("a.b", 1)
		},
		"number that loses digits": func() {
			register[struct {
				ID  string  `json:"id" field:"study_id"`
				Age float64 `json:"age"`
			}]("a.b", 1)
		},
		"unknown tag": func() {
			register[struct {
				ID string `json:"id" field:"id"`
			}]("a.b", 1)
		},
	} {
		before := len(eventTypes)
		func() {
			defer func() { _ = recover() }()
			register()
		}()
		if len(eventTypes) != before {
			t.Errorf("%s: registered", name)
			eventTypes = eventTypes[:before]
		}
	}
	e := register[sound]("a.b", 1)
	if eventTypes = eventTypes[:len(eventTypes)-1]; e.urn != "urn:versive-ingress:a.b:1" {
		t.Errorf("the URN is %s", e.urn)
	}
}
