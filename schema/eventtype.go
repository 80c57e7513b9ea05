package schema

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// An eventType is all that the package knows of one type of event. Each is
// registered by a file of its own, such as interview_completed.go, and
// described to consumers by the JSON Schema in <name>.v<version>.json.
//
// The headers and the subject of a message, its schema's URN, what is
// quarantined, and how a stored event is decoded follow from it.
type eventType struct {
	name    string  // the value of event_type: two words joined by a dot
	version int     // the major version of the canonical form
	fields  []field // the known members after event_type, in canonical order

	// JSON Pointers to fields. studyID and interviewID lead to an identity; one
	// of them may be "" if the type has no such id. time leads to a timestamp, or
	// is "".
	studyID, interviewID, time string

	// Set by register.
	data reflect.Type // the Go type that consumers decode the data into
	urn  string       // names the canonical form in ce-dataschema, and its JSON Schema as the $id
}

// A field is a known member of an object.
type field struct {
	name string
	*fieldType
	fields []field // of an object, or of each object in a list

	// Set by register.
	captured capture
	label    []byte // the name as it is written: `,"name":`
}

// A capture is a value that is needed outside of the data. A field's value is
// kept in the parser under its capture.
type capture int

const (
	captureNothing capture = iota
	captureStudyID
	captureInterviewID
	captureTime
	captureCount
)

// eventTypes are the registered types.
var eventTypes []*eventType

// typeName matches the names that an event type may have: subjects are
// filtered by them (see [Filter]).
var typeName = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// register adds an event type whose data consumers decode into a T. It panics
// if the type contradicts itself.
func register[T any](t eventType) *eventType {
	t.data = reflect.TypeFor[T]()
	t.urn = fmt.Sprintf("urn:versive-ingress:%s:%d", t.name, t.version)
	t.fields = append([]field{{name: "event_type", fieldType: text}}, t.fields...)
	if !typeName.MatchString(t.name) || t.version < 1 || t.studyID == "" && t.interviewID == "" {
		panic(fmt.Sprintf("schema: event type %q: want a name of two words, a version, and a study or interview id", t.name))
	}
	if typeNamed(t.name) != nil {
		panic(fmt.Sprintf("schema: event type %q is registered twice", t.name))
	}
	captures := map[string]capture{t.studyID: captureStudyID, t.interviewID: captureInterviewID, t.time: captureTime}
	delete(captures, "")
	t.prepare(t.fields, "", captures)
	if len(captures) > 0 {
		panic(fmt.Sprintf("schema: event type %q: no id or timestamp at %q", t.name, slices.Sorted(maps.Keys(captures))))
	}
	eventTypes = append(eventTypes, &t)
	return &t
}

// prepare sets what register sets in fields, which are those of the object at a
// JSON Pointer, and removes the captures that it has found.
func (t *eventType) prepare(fields []field, pointer string, captures map[string]capture) {
	for i := range fields {
		f := &fields[i]
		f.label = fmt.Appendf(nil, ",%q:", f.name)
		at := pointer + "/" + f.name
		if c := captures[at]; f.fieldType == identity && c != captureTime || f.fieldType == timestamp && c == captureTime {
			f.captured = c
			delete(captures, at)
		}
		if f.fieldType == list {
			at += "/*" // one pointer is not enough for what is in a list
		}
		t.prepare(f.fields, at, captures)
	}
}

// typeOf returns the event type of a body, or nil if it is not known.
func typeOf(root jsontext.Value) *eventType {
	switch value := lookup(root, "/event_type"); {
	case value == nil || text.isAbsent(value):
		return nil
	case value.Kind() != '"':
		return eventTypes[0] // reading the body by any table reports the wrong type
	default:
		return typeNamed(string(nameOf(value)))
	}
}

// typeNamed returns the event type with a name, or nil if there is none.
func typeNamed(name string) *eventType {
	for _, t := range eventTypes {
		if t.name == name {
			return t
		}
	}
	return nil
}
