package schema

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is an event as a consumer reads it, whatever its type; see [Decode].
// [DecodeAs] returns its data as the Go type that belongs to its type.
type Event struct {
	ID          string         // the svix-id: use it as the idempotency key
	Type        string         // for example "interview.completed"
	StudyID     string         // "" if events of the type belong to no study
	InterviewID string         // "" if events of the type belong to no interview
	Time        time.Time      // when it happened, in UTC; zero if that is not known
	Data        jsontext.Value // the canonical JSON
}

// Decode returns the event in a stored message: header is a nats.Header, data
// the message's data. The event refers to no memory of either.
//
// An error means that the message is not a canonical event of a type and
// version that this package knows. Its text contains nothing of the data.
func Decode(header map[string][]string, data []byte) (Event, error) {
	urn := first(header, headerDataSchema)
	if !slices.ContainsFunc(eventTypes, func(t *eventType) bool { return t.urn == urn }) {
		return Event{}, fmt.Errorf("decoding event: %s is %q, which is not a known event type and version", headerDataSchema, urn)
	}
	id := decodeHeader(first(header, headerID))
	if id == "" {
		return Event{}, fmt.Errorf("decoding event: no %s header", headerID)
	}
	e, err := parse(data)
	if err != nil {
		return Event{}, fmt.Errorf("decoding event %q: %w", id, err)
	}
	if urn != e.eventType.urn {
		return Event{}, fmt.Errorf("decoding event %q: %s is %q, and the data that of %s", id, headerDataSchema, urn, e.Type)
	}
	e.ID = id
	if e.time != "" {
		e.Time, _ = time.Parse(time.RFC3339Nano, e.time) // canonical, so it parses
	}
	return e.Event, nil
}

// DecodeAs returns the data of an event as a T, the Go type that belongs to
// the event's type:
//
//	completed, err := schema.DecodeAs[schema.InterviewCompleted](event)
//
// An unpaired surrogate escape such as "\ud83d" becomes U+FFFD in a Go string.
//
// An error means that the event is of another type, or that [Decode] has not
// made it. Its text contains nothing of the data.
func DecodeAs[T any](event Event) (T, error) {
	var data T
	t := typeNamed(event.Type)
	if t == nil || t.data != reflect.TypeFor[T]() {
		return data, fmt.Errorf("decoding event %q: %T is not the data of %s", event.ID, data, event.Type)
	}
	if err := json.Unmarshal(event.Data, &data, unpairedSurrogates); err != nil {
		// The library's text quotes the data.
		return data, fmt.Errorf("decoding event %q: the data is not canonical", event.ID)
	}
	return data, nil
}

// Number is a JSON number with all the digits that were sent; "" is null.
type Number string

// Float64 returns the number as a float64: the nearest one, ±Inf if it is out
// of range, or 0 for null.
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
