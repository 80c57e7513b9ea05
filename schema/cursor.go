package schema

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A cursor reads the elements of JSON objects and arrays from front to back,
// each as the bytes that stand in the body. The JSON must be valid: a cursor
// does not check it, and treats commas and colons as white space.
type cursor struct {
	json []byte
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
// or -1 and the name. Members usually are in the order of the table, without
// white space: then it is the field at next.
func (c *cursor) field(fields []field, next int) (i int, name jsontext.Value) {
	if next < len(fields) {
		if label := fields[next].label[len(","):]; bytes.HasPrefix(c.json[c.pos:], label) {
			c.pos += len(label)
			return next, nil
		}
	}
	name = c.next()
	return find(fields, name), name
}

// lookup returns the value at a JSON Pointer that leads through objects only,
// or nil if it is not there. No name on the way may need escaping.
func lookup(value jsontext.Value, pointer string) jsontext.Value {
	for name := range strings.SplitSeq(pointer[1:], "/") {
		if value.Kind() != '{' {
			return nil
		}
		c := cursor{json: value}
		c.skip()
		for value = nil; value == nil && c.peek() != '}'; {
			found := string(nameOf(c.next())) == name
			if next := c.next(); found {
				value = next
			}
		}
	}
	return value
}

// find returns the index of the field with a quoted name, or -1.
func find(fields []field, quoted jsontext.Value) int {
	name := nameOf(quoted)
	for i := range fields {
		if fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// nameOf returns the text of a member's name.
func nameOf(quoted jsontext.Value) []byte {
	if bytes.IndexByte(quoted, '\\') >= 0 {
		return []byte(unquote(quoted))
	}
	return quoted[1 : len(quoted)-1]
}

// valueLen returns the length of the value that b begins with.
func valueLen(b []byte) int {
	switch b[0] {
	case '"':
		return stringLen(b)
	case '{', '[':
		for i, depth := 0, 0; ; {
			switch b[i] {
			case '"':
				i += stringLen(b[i:])
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if i++; depth == 0 {
				return i
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
