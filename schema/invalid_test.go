package schema_test

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"versive-ingress/schema"
)

// samples holds a value of each JSON type. No error may repeat the word
// "confidential".
var samples = map[string]string{
	"null":      `null`,
	"a boolean": `true`,
	"a number":  `7.5`,
	"a string":  `"confidential"`,
	"an array":  `["confidential"]`,
	"an object": `{"confidential":1}`,
}

// TestWrongTypes sets each known member to a value of each JSON type.
func TestWrongTypes(t *testing.T) {
	members := map[string]string{ // the only type that is accepted except null
		"/event_type":                                   "a string",
		"/interview":                                    "an object",
		"/interview/id":                                 "a string",
		"/interview/title":                              "a string",
		"/interview/status":                             "a string",
		"/interview/is_mock":                            "a boolean",
		"/interview/is_archived":                        "a boolean",
		"/interview/created_at":                         "a string",
		"/interview/started_at":                         "a string",
		"/interview/ended_at":                           "a string",
		"/interview/type":                               "a string",
		"/interview/metadata":                           "an object",
		"/interview/active_time":                        "a number",
		"/interview/recording_url":                      "a string",
		"/interview/transcript":                         "a string",
		"/interview/parsed_conversation_json":           "an array",
		"/interview/parsed_conversation_json/0/role":    "a string",
		"/interview/parsed_conversation_json/1/content": "a string",
		"/interview/vid":                                "a string",
		"/study":                                        "an object",
		"/study/id":                                     "a string",
		"/study/title":                                  "a string",
		"/study/metadata":                               "an object",
		"/study/type":                                   "a string",
		"/study/mode":                                   "a string",
		"/study/created_at":                             "a string",
	}
	for pointer, want := range members {
		for got, sample := range samples {
			if got == want || got == "null" {
				continue
			}
			t.Run(pointer+" is "+got, func(t *testing.T) {
				_, err := schema.Normalize(svixID, replace(t, pointer, sample))
				checkRefusal(t, err, schema.Invalid, pointer+" is "+got+", want "+want)
			})
		}
	}
}

// TestWrongTurns does the same to an element of the conversation.
func TestWrongTurns(t *testing.T) {
	for got, sample := range samples {
		if got == "an object" {
			continue
		}
		_, err := schema.Normalize(svixID, replace(t, "/interview/parsed_conversation_json/1", sample))
		checkRefusal(t, err, schema.Invalid, "/interview/parsed_conversation_json/1 is "+got+", want an object")
	}
}

// TestErrorsNameNoContent checks the errors of all golden bodies that are
// refused.
func TestErrorsNameNoContent(t *testing.T) {
	for _, path := range goldenInputs(t) {
		if _, err := schema.Normalize(svixID, readFile(t, path)); err != nil {
			checkVocabulary(t, refusal(t, err))
		}
	}
}

// TestErrorText checks the three texts of an error.
func TestErrorText(t *testing.T) {
	_, err := schema.Normalize(svixID, body("", `,"vid":7`, ""))
	e := refusal(t, err)
	if e.Reason != schema.Invalid || e.Pointer != "/interview/vid" || e.Detail != "is a number, want a string" {
		t.Errorf("got %+v", *e)
	}
	if got, want := e.Error(), "invalid: /interview/vid is a number, want a string"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = schema.Normalize(svixID, []byte(`[]`))
	if got, want := err.Error(), "malformed: body is an array, want an object"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// vocabulary matches every description that an error may have.
var vocabulary = regexp.MustCompile(`^(` + strings.Join([]string{
	`body is (empty|(null|a boolean|a number|a string|an array), want an object)`,
	`body (is not valid JSON|has a duplicate member name|ends in the middle of the JSON object) \(byte [0-9]+\)`,
	`body has data after the JSON object`,
	`/event_type is not a known event type`,
	`/(interview|study)/id (is required|has an unpaired surrogate|has [0-9]+ bytes, want at most 256)`,
	`/(interview/(created|started|ended)|study/created)_at is not an RFC 3339 timestamp`,
	`(/[a-z_]+)(/[a-z_]+)?(/[0-9]+)?(/(role|content))? is (null|a boolean|a number|a string|an array|an object), want (a boolean|a number|a string|an array|an object)`,
	`(body|/interview/parsed_conversation_json) lacks so many members that its canonical form is over 65536 bytes longer`,
}, "|") + `)$`)

func checkVocabulary(t *testing.T, e *schema.Error) {
	t.Helper()
	if !vocabulary.MatchString(e.Description()) || strings.Contains(e.Description(), "confidential") {
		t.Errorf("the error may name content: %q", e.Description())
	}
}

func checkRefusal(t *testing.T, err error, reason schema.Reason, description string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %s: %s", reason, description)
	}
	e := refusal(t, err)
	if e.Reason != reason || e.Description() != description {
		t.Errorf("got %q, want %q", e, string(reason)+": "+description)
	}
	checkVocabulary(t, e)
}

// replace returns the documented body with another value at a JSON Pointer.
func replace(t *testing.T, pointer, value string) []byte {
	t.Helper()
	var document any
	if err := json.Unmarshal(readFile(t, "testdata/golden/2-types-and-members/documented.json"), &document); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(with(document, strings.Split(pointer, "/")[1:], json.RawMessage(value)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// with returns a tree in which the value at path is leaf.
func with(tree any, path []string, leaf json.RawMessage) any {
	if len(path) == 0 {
		return leaf
	}
	switch at := tree.(type) {
	case map[string]any:
		at[path[0]] = with(at[path[0]], path[1:], leaf)
	case []any:
		i, _ := strconv.Atoi(path[0])
		at[i] = with(at[i], path[1:], leaf)
	}
	return tree
}
