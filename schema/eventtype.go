package schema

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// An eventType is all that the package knows of one type of event. Each is
// registered by a file of its own, such as interview_completed.go, and
// described to consumers by the JSON Schema in <name>.v<version>.json.
//
// The headers and the subject of a message, its schema's URN, what is
// quarantined, and how a stored event is decoded follow from it.
type eventType struct {
	name    string       // the value of event_type: two words joined by a dot
	version int          // the major version of the canonical form
	urn     string       // names the canonical form in ce-dataschema, and its JSON Schema as the $id
	data    reflect.Type // the Go type that consumers decode the data into
	fields  []field      // the known members, in canonical order

	// JSON Pointers to the ids; one of them may be "", if the type has no such id.
	studyID, interviewID string
}

// A field is a known member of an object.
type field struct {
	name string
	*fieldType
	fields []field // of an object, or of each object in a list
	label  []byte  // the name as it is written: `,"name":`
	tag    string  // see fieldsOf
}

// urnPrefix begins the URN of every canonical form.
const urnPrefix = "urn:versive-ingress:"

// eventTypes are the registered types.
var eventTypes []*eventType

// typeName matches the names that an event type may have: subjects are
// filtered by them (see [Filter]).
var typeName = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// register adds an event type whose data consumers decode into a T. Its fields
// are those of T, as fieldsOf reads them. It panics if the type contradicts
// itself.
func register[T any](name string, version int) *eventType {
	t := &eventType{name: name, version: version, urn: fmt.Sprintf("%s%s:%d", urnPrefix, name, version), data: reflect.TypeFor[T]()}
	t.fields = t.fieldsOf(t.data, "")
	if ids := t.studyID + t.interviewID; !typeName.MatchString(name) || version < 1 || ids == "" || strings.Contains(ids, "*") {
		panic(fmt.Sprintf("schema: event type %q: want a name of two words, a version, and a study or interview id that is not in a list", name))
	}
	if typeNamed(name) != nil {
		panic(fmt.Sprintf("schema: event type %q is registered twice", name))
	}
	eventTypes = append(eventTypes, t)
	return t
}

// fieldsOf returns the fields of the object at a JSON Pointer, given its Go
// type: for each member of the struct except Unknown, one with the name of its
// json tag. Its field type follows from the Go type, and from a tag such as
// `field:"study_id"`: with study_id, interview_id or time, the value is an
// attribute of the event too.
func (t *eventType) fieldsOf(data reflect.Type, pointer string) (fields []field) {
	for member := range data.Fields() {
		if member.Name == "Unknown" {
			continue
		}
		name := member.Tag.Get("json")
		f := field{name: name, fieldType: fieldTypes[member.Type], label: fmt.Appendf(nil, ",%q:", name), tag: member.Tag.Get("field")}
		at := pointer + "/" + name
		switch kind := member.Type.Kind(); {
		case f.tag == "optional":
			f.fieldType = optional
		case f.tag == "lower_case":
			f.fieldType = lowerCase
		case f.tag == "study_id":
			f.fieldType, t.studyID = identity, at
		case f.tag == "interview_id":
			f.fieldType, t.interviewID = identity, at
		case f.tag == "time" && f.fieldType == timestamp, f.tag == "" && f.fieldType != nil:
		case f.tag == "" && kind == reflect.Struct:
			f.fieldType, f.fields = object, t.fieldsOf(member.Type, at)
		case f.tag == "" && kind == reflect.Slice: // one pointer is not enough for what is in a list
			f.fieldType, f.fields = list, t.fieldsOf(member.Type.Elem(), at+"/*")
		default:
			panic(fmt.Sprintf("schema: event type %q: no field type for %s, a %v with the tag field:%q", t.name, at, member.Type, f.tag))
		}
		fields = append(fields, f)
	}
	return fields
}

// fieldTypes are the field types of members without a tag.
var fieldTypes = map[reflect.Type]*fieldType{
	reflect.TypeFor[string]():         text,
	reflect.TypeFor[time.Time]():      timestamp,
	reflect.TypeFor[Number]():         number,
	reflect.TypeFor[bool]():           boolean,
	reflect.TypeFor[jsontext.Value](): freeForm,
}

// typeOf returns the event type of a body.
func typeOf(root jsontext.Value) (*eventType, *Error) {
	name := lookup(root, "/event_type")
	if t := typeNamed(textOf(name)); t != nil {
		return t, nil
	}
	problem := &Error{Reason: UnsupportedType, Pointer: "/event_type", Detail: "is not a known event type"}
	if kind := name.Kind(); name != nil && kind != 'n' && kind != '"' {
		problem.Reason, problem.Detail = Invalid, mismatch(kind, '"')
	}
	return nil, problem
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
