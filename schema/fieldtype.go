package schema

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A fieldType is the JSON type that a field's value must have, and how the
// value is made canonical.
type fieldType struct {
	kind  jsontext.Kind  // booleans have the kind 't'
	zero  jsontext.Value // written when the value is absent or null; nil if the field is required
	blank jsontext.Kind  // the kind whose empty value, "" or {}, counts as absent; 0 if none does

	// normalize rewrites a value of the right kind; nil leaves it unchanged. If
	// the value cannot be accepted, the second result says why.
	normalize func(jsontext.Value) (jsontext.Value, string)
}

// The field types. The last two need a table of fields: that of the object, or
// of each object in the list.
var (
	text      = &fieldType{kind: '"', zero: jsontext.Value(`""`)}
	optional  = &fieldType{kind: '"', zero: jsonNull, blank: '"'}
	lowerCase = &fieldType{kind: '"', zero: jsontext.Value(`""`), normalize: toLower}
	identity  = &fieldType{kind: '"', blank: '"', normalize: checkID}
	timestamp = &fieldType{kind: '"', zero: jsonNull, blank: '"', normalize: toUTC}
	number    = &fieldType{kind: '0', zero: jsonNull, blank: '"'}
	boolean   = &fieldType{kind: 't', zero: jsonFalse}
	freeForm  = &fieldType{kind: '{', zero: jsonEmptyObject}
	object    = &fieldType{kind: '{', zero: jsonEmptyObject}
	list      = &fieldType{kind: '[', zero: jsontext.Value("[]"), blank: '{'}
)

var (
	jsonNull        = jsontext.Value("null")
	jsonFalse       = jsontext.Value("false")
	jsonEmptyObject = jsontext.Value("{}")
)

// isAbsent reports whether a value counts as absent: null, or the blank value.
func (t *fieldType) isAbsent(value jsontext.Value) bool {
	return value[0] == 'n' || value[0] == byte(t.blank) && isEmpty(value)
}

// canonical returns the canonical form of a value that is not absent. If the
// value cannot be accepted, the second result says why; otherwise it is "".
func (t *fieldType) canonical(value jsontext.Value) (jsontext.Value, string) {
	if kind := kindOf(value[0]); kind != t.kind {
		return nil, mismatch(kind, t.kind)
	}
	if t.normalize == nil {
		return value, ""
	}
	return t.normalize(value)
}

// kindOf returns the kind of the value that begins with b. Booleans have the
// kind 't'.
func kindOf(b byte) jsontext.Kind {
	switch {
	case b == 'f':
		return 't'
	case b == '-' || '0' <= b && b <= '9':
		return '0'
	}
	return jsontext.Kind(b)
}

// isEmpty reports whether a JSON string or object is empty.
func isEmpty(value jsontext.Value) bool {
	c := cursor{json: value, pos: 1}
	return len(value) == len(`""`) || value[0] == '{' && c.peek() == '}'
}

// toLower returns a string in lower case. A string that has no upper-case
// letters keeps its bytes, escapes included.
func toLower(value jsontext.Value) (jsontext.Value, string) {
	if isLower(value) {
		return value, ""
	}
	s := unquote(value)
	if lower := strings.ToLower(s); lower != s {
		return quote(lower), ""
	}
	return value, ""
}

// isLower reports whether a JSON string is plain ASCII without escapes and
// upper-case letters, which is the usual case.
func isLower(value jsontext.Value) bool {
	for _, c := range value {
		if 'A' <= c && c <= 'Z' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func toUTC(value jsontext.Value) (jsontext.Value, string) {
	s, ok := normalizeTimestamp(unquote(value))
	if !ok {
		return nil, "is not an RFC 3339 timestamp"
	}
	if s == string(value[1:len(value)-1]) {
		return value, ""
	}
	return quote(s), ""
}

func checkID(value jsontext.Value) (jsontext.Value, string) {
	if len(value) > MaxIDLen+len(`""`) { // otherwise it is no longer without escapes
		if n := len(unquote(value)); n > MaxIDLen {
			return nil, fmt.Sprintf("has %d bytes, want at most %d", n, MaxIDLen)
		}
	}
	return value, ""
}

// unquote returns the text of a valid JSON string. A lone surrogate escape
// becomes U+FFFD.
func unquote(value jsontext.Value) string {
	b, _ := jsontext.AppendUnquote(make([]byte, 0, 64), value)
	return string(b)
}

// textOf returns the text of a JSON string; "" for every other value, or nil.
func textOf(value jsontext.Value) string {
	if value.Kind() != '"' {
		return ""
	}
	return unquote(value)
}

// quote is the inverse of [unquote].
func quote(s string) jsontext.Value {
	b, _ := jsontext.AppendQuote(nil, s)
	return b
}

// mismatch describes a value of the wrong JSON type.
func mismatch(got, want jsontext.Kind) string {
	return "is " + kindName(got) + ", want " + kindName(want)
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	default:
		return "an array"
	}
}
