package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// parse makes the canonical event of a body in three steps:
//
//  1. check validates the body: one JSON object in valid UTF-8, no duplicate
//     names. The later steps read it with cursors, which rely on that.
//  2. Its event_type selects the event type, and so the table of fields.
//  3. A writer reads the object by recursion and appends its canonical form:
//     fields that are in the order of their table as they are read, the others
//     at the end of their object, then the unknown members. The first value, in
//     this order, that cannot be accepted ends it.
//
// The caller owns the body, which is never written to, and the event, which does
// not refer to the body. Only the buffers of a pooled writer outlive a call.
func parse(body []byte) (parsed, error) {
	if len(body) > maxPooled {
		return new(writer).parse(body)
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	p, err := w.parse(body)
	if err == nil {
		w.buffer, p.Data = p.Data, bytes.Clone(p.Data)
	}
	return p, err
}

// parse makes the event of a body in the buffer of w, to which the event then refers.
func (w *writer) parse(body []byte) (parsed, error) {
	root, problem := check(body)
	if problem != nil {
		return parsed{}, problem
	}
	t, problem := typeOf(root)
	if problem != nil {
		return parsed{}, problem
	}
	w.parsed, w.limit, w.places = parsed{Event: Event{Type: t.name}, eventType: t}, len(body)+MaxGrowth, w.places[:0]
	data, problem := w.object(slices.Grow(w.buffer[:0], len(body)+512), &cursor{json: root}, t.fields)
	if problem == nil && len(data) > w.limit {
		problem = tooLong()
	}
	if problem != nil {
		return parsed{}, problem
	}
	p := w.parsed
	p.Data = data
	return p, nil
}

// A parsed event is what parse returns.
type parsed struct {
	Event     // without ID and Time
	eventType *eventType
	time      string // a canonical timestamp, or "" if there is none
}

// check validates a body and returns the object in it, without the white space
// around it.
func check(body []byte) (jsontext.Value, *Error) {
	root := jsontext.Value(bytes.Trim(body, whiteSpace))
	if root.Kind() == '{' && (root.IsValid() || utf8.Valid(root) && root.IsValid(unpairedSurrogates)) {
		return root, nil
	}
	return nil, malformed(body)
}

// unpairedSurrogates accepts escapes such as "\ud83d" without the other half of
// their pair, which RFC 8259 permits. It also accepts invalid UTF-8.
var unpairedSurrogates = jsontext.AllowInvalidUTF8(true)

const whiteSpace = " \t\r\n"

// malformed describes the syntax error in a body by its place alone: the
// library's own text quotes the body.
func malformed(body []byte) *Error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowInvalidUTF8(utf8.Valid(body)))
	value, err := dec.ReadValue()
	if err == nil {
		if kind := value.Kind(); kind != '{' {
			return &Error{Reason: Malformed, Detail: mismatch(kind, '{')}
		}
		_, err = dec.ReadToken() // what follows the object
	}
	e := &Error{Reason: Malformed, Detail: "is not valid JSON"}
	switch {
	case err == nil:
		e.Detail = "has data after the JSON object"
	case errors.Is(err, io.EOF):
		e.Detail = "is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Detail = "ends in the middle of the JSON object"
	case errors.Is(err, jsontext.ErrDuplicateName):
		e.Detail = "has a duplicate member name"
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		at := int(syntax.ByteOffset)
		// The decoder reports a trailing comma at the bracket after it.
		if before := bytes.TrimRight(body[:at], whiteSpace); bytes.HasSuffix(before, []byte(",")) && bytes.ContainsAny(body[at:min(at+1, len(body))], "]}") {
			at = len(before) - 1
		}
		e.Detail += fmt.Sprintf(" (byte %d)", at)
	}
	return e
}

// A writer writes the canonical form of one body at a time.
type writer struct {
	parsed        // what is known of the event so far
	limit  int    // the longest canonical form of this body, in bytes
	buffer []byte // for the canonical form
	// places is a stack. For each object that is being read it has one element for
	// each field, the position of its value, and one for each unknown member, the
	// position of its name.
	places []int
}

// writers pools the writers of bodies of up to maxPooled bytes, whose buffers are reused:
// the length of an event is known only once it has been written.
var writers = sync.Pool{New: func() any { return new(writer) }}

const maxPooled = 64 << 10

// tooLong refuses a value whose canonical form would not fit where the body
// does: the defaults of fields that it lacks are longer than MaxGrowth.
func tooLong() *Error {
	return &Error{Reason: Invalid, Detail: fmt.Sprintf("lacks so many members that its canonical form is over %d bytes longer", MaxGrowth)}
}

// object reads the object at c and appends its canonical form to out. Fields
// that are in the order of the table are written as they are read; all else is
// written at the end, from its place.
func (w *writer) object(out []byte, c *cursor, fields []field) ([]byte, *Error) {
	start, base := len(out), len(w.places)
	w.places = append(w.places, make([]int, len(fields))...)
	written := 0 // fields that are in out
	var problem *Error
	c.skip()
	for c.peek() != '}' {
		at := c.pos
		switch i := c.field(fields, written); {
		case i == written:
			if out, problem = w.field(out, c, &fields[i]); problem != nil {
				return nil, problem
			}
			written++
			continue
		case i < 0:
			w.places = append(w.places, at)
		default:
			w.places[base+i] = c.pos
		}
		c.next()
	}
	c.skip()
	rest := cursor{json: c.json}
	for ; written < len(fields); written++ {
		value := &rest
		if rest.pos = w.places[base+written]; rest.pos == 0 {
			value = nil
		}
		if out, problem = w.field(out, value, &fields[written]); problem != nil {
			return nil, problem
		}
	}
	for _, at := range w.places[base+len(fields):] {
		unknown := cursor{c.json, at}
		out = append(out, ',')
		out = append(out, unknown.next()...)
		out = append(out, ':')
		out = append(out, unknown.next()...)
	}
	w.places = w.places[:base]
	out[start] = '{' // instead of the first comma
	return append(out, '}'), nil
}

// field reads the value at c and appends it to out as that of a field.
func (w *writer) field(out []byte, c *cursor, f *field) (_ []byte, problem *Error) {
	out = append(out, f.label...)
	if out, problem = w.value(out, c, f); problem != nil {
		return nil, problem.in(f.name)
	}
	return out, nil
}

func (w *writer) value(out []byte, c *cursor, f *field) ([]byte, *Error) {
	var value jsontext.Value
	if c != nil {
		switch first := c.peek(); {
		case f.fieldType == object && first == '{':
			return w.object(out, c, f.fields)
		case f.fieldType == list && first == '[':
			return w.list(out, c, f.fields)
		}
		value = c.next()
	}
	value, problem := f.canonical(value)
	switch {
	case problem != "":
		return nil, &Error{Reason: Invalid, Detail: problem}
	case f.fieldType == object: // it is absent, and so are its own fields
		return w.object(out, &cursor{json: value}, f.fields)
	}
	switch f.tag {
	case "study_id":
		w.StudyID = textOf(value)
	case "interview_id":
		w.InterviewID = textOf(value)
	case "time":
		w.time = textOf(value)
	}
	return append(out, value...), nil
}

// list reads the array of objects at c and appends its canonical form to out.
func (w *writer) list(out []byte, c *cursor, fields []field) ([]byte, *Error) {
	start := len(out)
	out = append(out, '[')
	c.skip()
	for i := 0; c.peek() != ']'; i++ {
		if c.peek() != '{' {
			problem := &Error{Reason: Invalid, Detail: mismatch(c.next().Kind(), '{')}
			return nil, problem.in(strconv.Itoa(i))
		}
		if i > 0 {
			out = append(out, ',')
		}
		if cap(out)-len(out) < 128 { // the list grows: once to all that it may take
			out = slices.Grow(out, max(w.limit-len(out), 0))
		}
		var problem *Error
		if out, problem = w.object(out, c, fields); problem != nil {
			return nil, problem.in(strconv.Itoa(i))
		}
		if len(out)-start > w.limit {
			return nil, tooLong()
		}
	}
	c.skip()
	return append(out, ']'), nil
}
