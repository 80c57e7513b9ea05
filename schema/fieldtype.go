package schema

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A fieldType is the JSON type that a field's value must have, and how the
// value is made canonical.
type fieldType struct {
	kind  jsontext.Kind  // named in the error if a value has another kind
	other jsontext.Kind  // a second kind that is accepted; 0 if none is
	zero  jsontext.Value // written when the value is absent or null; nil if the field is required
	blank jsontext.Kind  // the kind whose empty value, "" or {}, counts as absent; 0 if none does

	// normalize rewrites a value of the right kind; nil leaves it unchanged. If
	// the value cannot be accepted, the second result is the reason.
	normalize func(jsontext.Value) (jsontext.Value, string)
}

// The field types. The last two need a table of fields: that of the object, or
// of each object in the list.
var (
	text      = &fieldType{kind: '"', zero: jsontext.Value(`""`)}
	optional  = &fieldType{kind: '"', zero: jsontext.Value("null"), blank: '"'}
	lowerCase = &fieldType{kind: '"', zero: jsontext.Value(`""`), normalize: toLower}
	identity  = &fieldType{kind: '"', blank: '"', normalize: checkID}
	timestamp = &fieldType{kind: '"', other: '0', zero: jsontext.Value("null"), blank: '"', normalize: toUTC}
	number    = &fieldType{kind: '0', zero: jsontext.Value("null"), blank: '"'}
	boolean   = &fieldType{kind: 't', other: 'f', zero: jsontext.Value("false")}
	freeForm  = &fieldType{kind: '{', zero: jsontext.Value("{}")}
	object    = &fieldType{kind: '{', zero: jsontext.Value("{}")}
	list      = &fieldType{kind: '[', zero: jsontext.Value("[]"), blank: '{'}
)

// canonical returns the canonical form of a value. If the value cannot be
// accepted, the second result is the reason; otherwise it is "".
func (t *fieldType) canonical(value jsontext.Value) (jsontext.Value, string) {
	switch kind := value.Kind(); {
	case value == nil || kind == 'n' || kind == t.blank && isEmpty(value):
		if t.zero == nil {
			return nil, "is required"
		}
		return t.zero, ""
	case kind != t.kind && kind != t.other:
		return nil, mismatch(kind, t.kind)
	case t.normalize == nil:
		return value, ""
	default:
		return t.normalize(value)
	}
}

// isEmpty reports whether a JSON string or object is empty.
func isEmpty(value jsontext.Value) bool {
	c := cursor{json: value, pos: 1}
	return len(value) == len(`""`) || value[0] == '{' && c.peek() == '}'
}

// toLower returns a string in lower case. A string that has no upper-case
// letters keeps its bytes, escapes included.
func toLower(value jsontext.Value) (jsontext.Value, string) {
	switch string(value) {
	case `"assistant"`, `"user"`: // the usual ones
		return value, ""
	}
	s := string(unquote(value))
	if lower := strings.ToLower(s); lower != s {
		return quote(lower), ""
	}
	return value, ""
}

func toUTC(value jsontext.Value) (jsontext.Value, string) {
	kind, sent := value.Kind(), []byte(value)
	if kind == '"' {
		sent = unquote(value)
	}
	s, ok := normalizeTimestamp(string(sent))
	switch {
	case !ok && kind == '"':
		return nil, "is not an RFC 3339 timestamp"
	case !ok:
		return nil, mismatch(kind, '"')
	case s == string(value[1:len(value)-1]):
		return value, ""
	}
	return quote(s), ""
}

func checkID(value jsontext.Value) (jsontext.Value, string) {
	if bytes.IndexByte(value, '\\') >= 0 && !value.IsValid() { // it has no UTF-8, and so no subject
		return nil, "has an unpaired surrogate"
	}
	if n := len(unquote(value)); n > MaxIDLen {
		return nil, fmt.Sprintf("has %d bytes, want at most %d", n, MaxIDLen)
	}
	return value, ""
}

// unquote returns the text of a valid JSON string, which may be a part of value.
// An unpaired surrogate escape becomes U+FFFD.
func unquote(value jsontext.Value) []byte {
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, value)
	return text
}

// textOf returns the text of a JSON string; "" for every other value, or nil.
func textOf(value jsontext.Value) string {
	if value.Kind() != '"' {
		return ""
	}
	return string(unquote(value))
}

// quote is the inverse of [unquote].
func quote(s string) jsontext.Value {
	b, _ := jsontext.AppendQuote(nil, s)
	return b
}

// mismatch describes a value of the wrong JSON type.
func mismatch(got, want jsontext.Kind) string {
	return "is " + kindNames[got] + ", want " + kindNames[want]
}

var kindNames = map[jsontext.Kind]string{
	'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
}
