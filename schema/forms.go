package schema

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// toLower lowers a string's letters and leaves its bytes alone if there is
// nothing to lower.
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

// isLower reports whether a JSON string holds nothing to lower. It says so
// of plain ASCII without escapes alone, the usual case.
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
	return quote(s), ""
}

func checkID(value jsontext.Value) (jsontext.Value, string) {
	if n := len(unquote(value)); n > MaxIDLen {
		return nil, fmt.Sprintf("has %d bytes, want at most %d", n, MaxIDLen)
	}
	return value, ""
}

// unquote returns the text of a JSON string that the decoder has accepted.
func unquote(value jsontext.Value) string {
	b, _ := jsontext.AppendUnquote(nil, value)
	return string(b)
}

// quote is the inverse of [unquote].
func quote(s string) jsontext.Value {
	b, _ := jsontext.AppendQuote(nil, s)
	return b
}

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
