package schema_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"versive-ingress/schema"
)

// schemaFile and schemaURN are those of interview.completed, version 1.
const (
	schemaFile = "interview.completed.v1.json"
	schemaURN  = "urn:versive-ingress:interview.completed:1"
)

// svixID is the svix-id of the tests' webhooks.
const svixID = "msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa"

// body returns the smallest body that is accepted, with more members for the
// document, the interview and the study, each written `,"name":value`.
func body(document, interview, study string) []byte {
	return []byte(`{"event_type":"interview.completed","interview":{"id":"i"` + interview +
		`},"study":{"id":"s"` + study + `}` + document + `}`)
}

// conversation returns a body with the same turn n times.
func conversation(turn string, n int) []byte {
	turns := strings.TrimSuffix(strings.Repeat(turn+",", n), ",")
	return body("", `,"parsed_conversation_json":[`+turns+`]`, "")
}

// normalize normalizes a body that must be accepted.
func normalize(tb testing.TB, body []byte) schema.Message {
	tb.Helper()
	message, err := schema.Normalize(svixID, body)
	if err != nil {
		tb.Fatalf("refused: %v", err)
	}
	return message
}

// refusal returns an error of Normalize as an *Error, which it must be.
func refusal(tb testing.TB, err error) *schema.Error {
	tb.Helper()
	e, ok := errors.AsType[*schema.Error](err)
	if !ok {
		tb.Fatalf("error is %T (%v), want *schema.Error", err, err)
	}
	return e
}

// jsonSchema compiles the JSON Schema and returns a function that validates a
// document.
func jsonSchema(tb testing.TB) func(data []byte) error {
	tb.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(readFile(tb, schemaFile)))
	if err != nil {
		tb.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(schemaURN, document); err != nil {
		tb.Fatal(err)
	}
	compiled, err := compiler.Compile(schemaURN)
	if err != nil {
		tb.Fatal(err)
	}
	return func(data []byte) error {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return compiled.Validate(value)
	}
}

func readFile(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
