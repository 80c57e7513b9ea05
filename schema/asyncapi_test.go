package schema_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"versive-ingress/schema"
)

// asyncAPI is the part of the document that the tests read.
type asyncAPI struct {
	AsyncAPI string `json:"asyncapi"`
	Channels map[string]struct {
		Address    string
		Parameters map[string]struct{ Description string }
		Messages   map[string]ref
	}
	Operations map[string]struct {
		Action   string
		Channel  ref
		Messages []ref
	}
	Components struct {
		Messages map[string]struct {
			Headers  ref
			Examples []struct {
				Headers map[string]string
				Payload json.RawMessage
			}
		}
		Schemas map[string]struct {
			Description          string
			Properties           map[string]json.RawMessage
			Required             []string
			AdditionalProperties bool
		}
	}
}

type ref struct {
	Ref string `json:"$ref"`
}

func readAsyncAPI(t *testing.T) asyncAPI {
	t.Helper()
	var document asyncAPI
	if err := json.Unmarshal(readFile(t, "asyncapi.json"), &document); err != nil {
		t.Fatal(err)
	}
	return document
}

// asyncAPISchema compiles the schema at a JSON Pointer of the document, in the
// draft that AsyncAPI builds on, and follows its references to the file of the
// JSON Schema.
func asyncAPISchema(t *testing.T, pointer string) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft7)
	compiler.AssertFormat()
	for name, text := range map[string][]byte{"asyncapi.json": readFile(t, "asyncapi.json"), "interview.completed.v1.json": readFile(t, schemaFile)} {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("https://example.com/"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	compiled, err := compiler.Compile("https://example.com/asyncapi.json#" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// asStored returns a message's headers as the broker stores them: with those
// that the publisher adds. The sequence is the one that the publisher expects to
// be the subject's last.
func asStored(m schema.Message, sequence string) map[string]any {
	header := map[string]any{"Nats-Msg-Id": m.ID, "Nats-Expected-Last-Subject-Sequence": sequence}
	for name, values := range m.Header {
		header[name] = values[0]
	}
	return header
}

// asyncAPIExamples returns each kind of message that the package makes of a
// body, by the message's name in the document.
func asyncAPIExamples(t *testing.T, body []byte) map[string]schema.Message {
	t.Helper()
	event := normalize(t, body)
	erase := func(m schema.Message) schema.Message {
		tombstone, err := schema.Tombstone(m.Kind, m.Subject("versive"), 1)
		if err != nil {
			t.Fatal(err)
		}
		return tombstone
	}
	giveUp := func(m schema.Message, sequence uint64) schema.Message {
		return schema.DeadLetter(schema.Dead{
			Consumer: "reports", Reason: "no such account", ID: event.ID, Subject: m.Subject("versive"), Sequence: sequence, Deliveries: 5,
		}, m.Header, m.Data)
	}
	made := map[string]schema.Message{
		"InterviewCompleted": event,
		"InterviewErased":    erase(event),
		"DeadLetter":         giveUp(event, 1),
		"ErasureDeadLetter":  giveUp(erase(event), 2),
		"DeadLetterErased":   erase(giveUp(event, 1)),
	}
	return made
}

// TestAsyncAPI compares the document with messages that the package makes: the
// document describes their headers and no others, and each message matches
// exactly one description.
func TestAsyncAPI(t *testing.T) {
	document := readAsyncAPI(t)
	if document.AsyncAPI != "3.0.0" {
		t.Errorf("asyncapi is %q", document.AsyncAPI)
	}
	headers, payloads := map[string]*jsonschema.Schema{}, map[string]*jsonschema.Schema{}
	for name := range document.Components.Messages {
		headers[name] = asyncAPISchema(t, "/components/messages/"+name+"/headers")
		payloads[name] = asyncAPISchema(t, "/components/messages/"+name+"/payload")
	}
	bodies := map[string][]byte{
		"documented": readFile(t, "testdata/golden/2-types-and-members/documented.json"),
		"smallest":   body("", "", ""),
		"odd ids":    []byte(`{"event_type":"interview.completed","interview":{"id":"\"a/b c\"%é"},"study":{"id":"学.>*/"}}`),
	}
	for name, body := range bodies {
		for want, message := range asyncAPIExamples(t, body) {
			t.Run(name+"/"+want, func(t *testing.T) {
				header := asStored(message, "0")
				var data any = "" // the document's form of no data
				if len(message.Data) > 0 {
					var err error
					if data, err = jsonschema.UnmarshalJSON(bytes.NewReader(message.Data)); err != nil {
						t.Fatal(err)
					}
				}
				if err := headers[want].Validate(header); err != nil {
					t.Error(err)
				}
				named := asStored(message.WithOrganization("a-1"), "0")
				if err := headers[want].Validate(named); err != nil {
					t.Error(err)
				}
				if err := payloads[want].Validate(data); err != nil {
					t.Error(err)
				}
				for other := range sameChannel(document, want) {
					if other != want && headers[other].Validate(header) == nil && payloads[other].Validate(data) == nil {
						t.Errorf("is a %s as well", other)
					}
				}

				described := document.Components.Schemas[strings.TrimPrefix(document.Components.Messages[want].Headers.Ref, "#/components/schemas/")]
				if !described.AdditionalProperties {
					t.Error("other headers are not allowed, so a later version could add none")
				}
				optional := []string{"ce-time", "Nats-Expected-Last-Subject-Sequence"}
				for header := range header {
					if described.Properties[header] == nil {
						t.Errorf("header %s is not described", header)
					} else if !slices.Contains(described.Required, header) && !slices.Contains(optional, header) {
						t.Errorf("header %s is always there and not required", header)
					}
				}
				for described := range described.Properties {
					if _, ok := header[described]; !ok && described != "ce-time" && described != "ce-organization" {
						t.Errorf("header %s is described and not there", described)
					}
				}
			})
		}
	}
}

// sameChannel returns the messages of the channel that a message belongs to.
func sameChannel(document asyncAPI, message string) map[string]ref {
	for _, channel := range document.Channels {
		if _, ok := channel.Messages[message]; ok {
			return channel.Messages
		}
	}
	return nil
}

// TestAsyncAPIRefuses checks that the descriptions refuse headers that no
// message has.
func TestAsyncAPIRefuses(t *testing.T) {
	event := normalize(t, readFile(t, "testdata/golden/2-types-and-members/documented.json"))
	validate := asyncAPISchema(t, "/components/messages/InterviewCompleted/headers").Validate
	for _, test := range []struct{ name, value string }{
		{"ce-specversion", "0.3"},
		{"ce-id", "a b"},
		{"ce-id", "100%"},
		{"ce-type", schema.TypeErased},
		{"ce-source", "https://getversive.com/studies/"},
		{"ce-source", "https://getversive.com/studies/a b"},
		{"ce-subject", ""},
		{"ce-subject", "é"},
		{"ce-time", "2024-01-01T00:09:41+00:00"},
		{"ce-time", "2024-02-30T00:09:41Z"},
		{"ce-time", ""},
		{"ce-datacontenttype", "text/plain"},
		{"ce-dataschema", "urn:versive-ingress:interview.completed:2"},
		{"ce-organization", ""},
		{"ce-organization", "Acme"},
		{"ce-organization", "acme-"},
		{"Nats-Msg-Id", "a b"},
	} {
		header := asStored(event, "0")
		header[test.name] = test.value
		if validate(header) == nil {
			t.Errorf("%s: %q is accepted", test.name, test.value)
		}
	}
}

// TestAsyncAPIExamples compares the examples with the messages that the package
// makes of the vendor's documented sample.
func TestAsyncAPIExamples(t *testing.T) {
	document := readAsyncAPI(t)
	made := asyncAPIExamples(t, readFile(t, "testdata/golden/2-types-and-members/documented.json"))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(made)), slices.Sorted(maps.Keys(document.Components.Messages))); diff != "" {
		t.Fatalf("messages (-made +described)\n%s", diff)
	}
	for name, described := range document.Components.Messages {
		want := made[name]
		sequence := "0"
		if strings.HasPrefix(want.ID, "erased:") { // a tombstone expects its copy
			sequence = "1"
		}
		if len(described.Examples) != 1 {
			t.Fatalf("%s has %d examples", name, len(described.Examples))
		}
		example := described.Examples[0]
		header := make(map[string]any)
		for name, value := range example.Headers {
			header[name] = value
		}
		if diff := cmp.Diff(asStored(want, sequence), header); diff != "" {
			t.Errorf("%s: headers (-made +example)\n%s", name, diff)
		}
		var payload bytes.Buffer
		if err := json.Compact(&payload, example.Payload); err != nil {
			t.Fatal(err)
		}
		data := string(want.Data)
		if data == "" {
			data = `""`
		}
		if diff := cmp.Diff(data, payload.String()); diff != "" {
			t.Errorf("%s: payload (-made +example)\n%s", name, diff)
		}
	}
}

// TestAsyncAPIAddresses: an address with its parameters replaced is a
// message's subject.
func TestAsyncAPIAddresses(t *testing.T) {
	document := readAsyncAPI(t)
	made := asyncAPIExamples(t, []byte(`{"event_type":"interview.completed","interview":{"id":"a/b"},"study":{"id":"学"}}`))
	parameters := map[string]string{
		"study_id": schema.Escape("学"), "interview_id": schema.Escape("a/b"), "svix_id": schema.Escape(svixID), "consumer": "reports",
	}
	for name, channel := range document.Channels {
		subject := channel.Address
		for parameter, described := range channel.Parameters {
			if described.Description == "" || !strings.Contains(subject, "{"+parameter+"}") {
				t.Errorf("%s: parameter %s is not described, or not in the address", name, parameter)
			}
			subject = strings.Replace(subject, "{"+parameter+"}", parameters[parameter], 1)
		}
		for message := range channel.Messages {
			if got := made[message].Subject("versive"); got != subject {
				t.Errorf("%s: %s has the subject %s, and the address is %s", name, message, got, subject)
			}
		}
	}
}

// TestAsyncAPIReferences: every reference has a target, in the document or in
// the file of the JSON Schema, and every component is referred to.
func TestAsyncAPIReferences(t *testing.T) {
	var document any
	if err := json.Unmarshal(readFile(t, "asyncapi.json"), &document); err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	var walk func(any)
	walk = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, element := range value {
				walk(element)
			}
		case map[string]any:
			if target, ok := value["$ref"].(string); ok {
				used[target] = true
			}
			for _, member := range value {
				walk(member)
			}
		}
	}
	walk(document)
	for target := range used {
		pointer, local := strings.CutPrefix(target, "#/")
		if !local {
			if text := readFile(t, target); !bytes.Equal(text, readFile(t, schemaFile)) {
				t.Errorf("%s is not the JSON Schema", target)
			}
			continue
		}
		at := document
		for _, name := range strings.Split(pointer, "/") {
			object, _ := at.(map[string]any)
			at = object[name]
		}
		if at == nil {
			t.Errorf("%s leads nowhere", target)
		}
	}
	parsed := readAsyncAPI(t)
	for name := range parsed.Components.Messages {
		if !used["#/components/messages/"+name] {
			t.Errorf("message %s is in no channel", name)
		}
	}
	for name := range parsed.Components.Schemas {
		if !used["#/components/schemas/"+name] {
			t.Errorf("schema %s is not used", name)
		}
	}
	for name, operation := range parsed.Operations {
		channel := parsed.Channels[strings.TrimPrefix(operation.Channel.Ref, "#/channels/")]
		if operation.Action != "receive" || len(operation.Messages) != len(channel.Messages) {
			t.Errorf("operation %s does not receive all that is in its channel", name)
		}
	}
}
