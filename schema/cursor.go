package schema

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A cursor reads the elements of JSON objects and arrays from front to back. The
// JSON must be valid: a cursor does not check it, and treats commas and colons
// as white space.
type cursor struct {
	json jsontext.Value
	pos  int // how much of json has been read
}

// peek skips to the next element and returns its first byte, or the bracket
// that closes the object or array.
func (c *cursor) peek() byte {
	for ; ; c.pos++ {
		switch b := c.json[c.pos]; b {
		case ' ', '\t', '\r', '\n', ',', ':':
		default:
			return b
		}
	}
}

// skip reads the bracket that opens or closes an object or array.
func (c *cursor) skip() {
	c.peek()
	c.pos++
}

// next reads the next element: a member's name, in quotes, or a whole value.
func (c *cursor) next() jsontext.Value {
	c.peek()
	start := c.pos
	c.pos += valueLen(c.json[start:])
	return c.json[start:c.pos:c.pos]
}

// field reads the next name and returns the index of the field that it names,
// or -1. It looks for the expected one first, without white space.
func (c *cursor) field(fields []field, expected int) int {
	if expected < len(fields) {
		if label := fields[expected].label[len(","):]; bytes.HasPrefix(c.json[c.pos:], label) {
			c.pos += len(label)
			return expected
		}
	}
	name := unquote(c.next())
	for i := range fields {
		if fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// lookup returns the value at a JSON Pointer that leads through objects only,
// or nil if it is not there. No name on the way may need escaping.
func lookup(value jsontext.Value, pointer string) jsontext.Value {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if value.Kind() != '{' {
			return nil
		}
		c := cursor{json: value}
		c.skip()
		for value = nil; value == nil && c.peek() != '}'; {
			found := string(unquote(c.next())) == name
			if next := c.next(); found {
				value = next
			}
		}
	}
	return value
}

// valueLen returns the length of the value that b begins with.
func valueLen(b []byte) int {
	switch b[0] {
	case '"':
		return stringLen(b)
	case '{', '[':
		for i, depth := 0, 0; ; i++ {
			switch b[i] {
			case '"':
				i += stringLen(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default: // a number or a literal
		for i, c := range b {
			switch c {
			case ',', '}', ']', ' ', '\t', '\r', '\n':
				return i
			}
		}
		return len(b)
	}
}

// stringLen returns the length of the string that b begins with, with quotes.
func stringLen(b []byte) int {
	for i := 1; ; i++ {
		i += bytes.IndexByte(b[i:], '"')
		backslashes := 0
		for b[i-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i + 1
		}
	}
}
