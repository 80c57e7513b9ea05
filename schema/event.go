package schema

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is a canonical event as a consumer reads it; see [Decode].
//
// In all of its parts Unknown holds the members that this version of the
// schema does not know, as one JSON object, byte for byte; nil if there are
// none. Raw JSON aliases nothing: an Event may be kept.
type Event struct {
	ID        string         `json:"-"` // the svix-id: use it as the idempotency key
	Type      string         `json:"event_type"`
	Interview Interview      `json:"interview"`
	Study     Study          `json:"study"`
	Unknown   jsontext.Value `json:",embed"`
}

// Interview is a completed interview. Times are in UTC and zero when the
// vendor sent none.
type Interview struct {
	ID           string         `json:"id"`
	Title        string         `json:"title"`
	Status       string         `json:"status"`
	IsMock       bool           `json:"is_mock"`
	IsArchived   bool           `json:"is_archived"`
	CreatedAt    time.Time      `json:"created_at"`
	StartedAt    time.Time      `json:"started_at"`
	EndedAt      time.Time      `json:"ended_at"`
	Type         string         `json:"type"`
	Metadata     jsontext.Value `json:"metadata"`      // a JSON object
	ActiveTime   Number         `json:"active_time"`   // seconds; "" when there is none
	RecordingURL string         `json:"recording_url"` // "" when there is none
	Transcript   string         `json:"transcript"`
	Conversation []Turn         `json:"parsed_conversation_json"`
	VID          string         `json:"vid"` // "" when there is none
	Unknown      jsontext.Value `json:",embed"`
}

// Turn is one utterance of the conversation.
type Turn struct {
	Role    string         `json:"role"` // lower case: "assistant" or "user"
	Content string         `json:"content"`
	Unknown jsontext.Value `json:",embed"`
}

// Study is the study that an interview belongs to.
type Study struct {
	ID        string         `json:"id"`
	Title     string         `json:"title"`
	Metadata  jsontext.Value `json:"metadata"` // a JSON object
	Type      string         `json:"type"`
	Mode      string         `json:"mode"`
	CreatedAt time.Time      `json:"created_at"`
	Unknown   jsontext.Value `json:",embed"`
}

// Number is a JSON number with all the digits that were sent; "" is null.
type Number string

// Float64 returns the number as a float64, or 0 for null.
func (n Number) Float64() float64 {
	f, _ := strconv.ParseFloat(string(n), 64)
	return f
}

// UnmarshalJSONFrom reads a number or null.
func (n *Number) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	switch value.Kind() {
	case 'n':
		*n = ""
	case '0':
		*n = Number(value)
	default:
		return errors.New(mismatch(value.Kind(), '0'))
	}
	return nil
}

// MarshalJSONTo writes the number's digits, or null.
func (n Number) MarshalJSONTo(enc *jsontext.Encoder) error {
	if n == "" {
		return enc.WriteToken(jsontext.Null)
	}
	return enc.WriteValue(jsontext.Value(n))
}

// Decode gives a consumer the typed event back from a stored message: header
// is a nats.Header, data the message's data. It does not keep data.
//
// An error means that the message is not a canonical event of a version that
// this package knows; it names no content.
func Decode(header map[string][]string, data []byte) (Event, error) {
	get := func(name string) string {
		if values := header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	if urn := get(headerDataSchema); urn != SchemaURN {
		return Event{}, fmt.Errorf("decoding event: %s is %q, want %q", headerDataSchema, urn, SchemaURN)
	}
	event := Event{ID: decodeHeader(get(headerID))}
	if event.ID == "" {
		return Event{}, fmt.Errorf("decoding event: no %s header", headerID)
	}
	if err := json.Unmarshal(data, &event); err != nil {
		// The library's text quotes the data.
		if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
			return Event{}, fmt.Errorf("decoding event %q: wrong type at byte %d", event.ID, semantic.ByteOffset)
		}
		return Event{}, fmt.Errorf("decoding event %q: not valid JSON", event.ID)
	}
	if event.Type != typeCompleted || event.Interview.ID == "" || event.Study.ID == "" {
		return Event{}, fmt.Errorf("decoding event %q: not of a known type, or a required member is missing", event.ID)
	}
	return event, nil
}
