package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// A parser makes the canonical event of a body in three steps:
//
//  1. check validates the body: one JSON object in valid UTF-8, no duplicate
//     names. The later steps read it with cursors, which rely on that.
//  2. Its event_type selects the event type, and so the table of fields.
//  3. object reads the body once, from front to back, by recursion over pairs
//     of a name and a raw value, and appends the canonical form to out. The first
//     value that cannot be accepted, or the end of an object that lacks a
//     required field, ends it.
//
// The caller owns the body, which is never written to, and the event, which
// refers to neither the body nor the parser. A parser serves one goroutine at a
// time; between bodies it keeps its buffers in the pool and refers to no body.
type parser struct {
	dec      jsontext.Decoder
	input    bytes.Buffer // of dec
	limit    int          // the longest canonical form of this body, in bytes
	out      []byte       // the canonical form so far
	spans    []span       // stack: for each object that is being read, see object
	captured [captureCount]jsontext.Value
}

// A span is the place of members in out, from a comma to the end of a value.
type span struct{ start, end int }

var parsers = sync.Pool{New: func() any { return new(parser) }}

// maxKept is the largest buffer that a parser keeps between bodies, in bytes.
const maxKept = 256 << 10

// A parsed event is what parse returns.
type parsed struct {
	Event     // without ID and Time
	eventType *eventType
	time      string // a canonical timestamp, or "" if there is none
}

// parse parses a body. The error is nil or an [*Error].
func parse(body []byte) (parsed, error) {
	p := parsers.Get().(*parser)
	defer p.release()
	root, problem := p.check(body)
	if problem != nil {
		return parsed{}, problem
	}
	t := typeOf(root)
	if t == nil {
		return parsed{}, &Error{Reason: UnsupportedType, Pointer: "/event_type", Detail: "is not a known event type"}
	}
	data, problem := p.document(root, t)
	if problem != nil {
		return parsed{}, problem
	}
	return parsed{Event{
		Type:        t.name,
		StudyID:     textOf(p.captured[captureStudyID]),
		InterviewID: textOf(p.captured[captureInterviewID]),
		Data:        data,
	}, t, textOf(p.captured[captureTime])}, nil
}

// release gives the parser back, without references to the body.
func (p *parser) release() {
	p.decode(nil)
	p.captured = [captureCount]jsontext.Value{}
	if p.out, p.spans = p.out[:0], p.spans[:0]; cap(p.out) > maxKept {
		p.out = nil
	}
	parsers.Put(p)
}

// decode sets the decoder to the start of a body.
func (p *parser) decode(body []byte) {
	p.input = *bytes.NewBuffer(body)
	p.dec.Reset(&p.input)
}

// check validates a body and returns the object in it, without the white space
// around it.
func (p *parser) check(body []byte) (jsontext.Value, *Error) {
	p.decode(body)
	value, err := p.dec.ReadValue()
	if err != nil {
		p.decode(body)
		return nil, malformed(p.locate(&field{fieldType: object, fields: eventTypes[0].fields}))
	}
	// The decoder's own slice is valid only until the next call.
	end := int(p.dec.InputOffset())
	root := jsontext.Value(body[end-len(value) : end])
	if kind := root.Kind(); kind != '{' {
		return nil, &Error{Reason: Malformed, Detail: mismatch(kind, '{')}
	}
	if _, err := p.dec.ReadToken(); err != io.EOF {
		return nil, malformed(err)
	}
	p.limit = len(body) + MaxGrowth
	return root, nil
}

// locate returns the error in a body that is not valid, where f is the field
// that the decoder stands at, or nil if it is not known. It reads known objects
// and lists token by token: the decoder then reports a trailing comma at the
// comma, as descriptions in the quarantine do, and not at the bracket after it.
func (p *parser) locate(f *field) error {
	if f == nil || f.fields == nil || p.dec.PeekKind() != f.kind {
		_, err := p.dec.ReadValue()
		return err
	}
	_, err := p.dec.ReadToken()
	for err == nil && p.dec.PeekKind() != f.kind+2 { // the closing bracket
		next := &field{fieldType: object, fields: f.fields} // of a list
		if f.kind == '{' {
			name, err := p.dec.ReadValue()
			if err != nil {
				return err
			}
			next = nil
			if i := find(f.fields, name); i >= 0 {
				next = &f.fields[i]
			}
		}
		err = p.locate(next)
	}
	if err == nil {
		_, err = p.dec.ReadToken()
	}
	return err
}

// malformed describes a syntax error by its place alone: the library's own
// text quotes the body.
func malformed(err error) *Error {
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
		e.Detail += fmt.Sprintf(" (byte %d)", syntax.ByteOffset)
	}
	return e
}

// document returns the canonical form of a whole body, as a new slice.
func (p *parser) document(root jsontext.Value, t *eventType) (jsontext.Value, *Error) {
	p.out = slices.Grow(p.out, 2*len(root)+1024) // twice, if it must be sorted
	if problem := p.object(&cursor{json: root}, t.fields); problem != nil {
		return nil, problem
	}
	if len(p.out) > p.limit {
		return nil, tooLong()
	}
	return bytes.Clone(p.out), nil
}

// tooLong refuses a value whose canonical form would not fit where the body
// does: the defaults of fields that it lacks are longer than MaxGrowth.
func tooLong() *Error {
	return &Error{Reason: Invalid, Detail: fmt.Sprintf("lacks so many members that its canonical form is over %d bytes longer", MaxGrowth)}
}

// object reads the object at c and appends its canonical form to out: the
// fields in the order of their table, then the unknown members in the order of
// the body. Each member is appended when it is read, and its place is noted in
// spans: one for each field, then one for each run of unknown members. Only if
// the members were not in canonical order are they copied into it.
func (p *parser) object(c *cursor, fields []field) *Error {
	start, base := len(p.out), len(p.spans)
	for range fields {
		p.spans = append(p.spans, span{}) // absent
	}
	unknown := len(p.spans)
	sorted, next := true, 0 // next is the field after the last one in out
	c.skip()
	for c.peek() != '}' {
		at := len(p.out)
		i, name := c.field(fields, next)
		if i < 0 {
			p.out = append(p.out, ',')
			p.out = append(p.out, name...)
			p.out = append(p.out, ':')
			p.out = append(p.out, c.next()...)
			if last := len(p.spans) - 1; last >= unknown && p.spans[last].end == at {
				p.spans[last].end = len(p.out)
			} else {
				p.spans = append(p.spans, span{at, len(p.out)})
			}
			sorted = sorted && next == len(fields)
			continue
		}
		p.out = append(p.out, fields[i].label...)
		if problem := p.value(c, &fields[i]); problem != nil {
			return problem.in(fields[i].name)
		}
		p.spans[base+i] = span{at, len(p.out)}
		sorted, next = sorted && i == next, i+1
	}
	c.skip()
	for i := range fields {
		if p.spans[base+i].end > 0 {
			continue
		}
		at := len(p.out)
		p.out = append(p.out, fields[i].label...)
		if problem := p.zero(&fields[i]); problem != nil {
			return problem.in(fields[i].name)
		}
		p.spans[base+i] = span{at, len(p.out)}
		sorted, next = sorted && i == next, i+1
	}
	if !sorted {
		end := len(p.out)
		for _, s := range p.spans[base:] {
			p.out = append(p.out, p.out[s.start:s.end]...)
		}
		p.out = append(p.out[:start], p.out[end:]...)
	}
	p.spans = p.spans[:base]
	p.out[start] = '{' // instead of the first comma
	p.out = append(p.out, '}')
	return nil
}

// value reads the value of a field and appends its canonical form to out.
func (p *parser) value(c *cursor, f *field) *Error {
	if f.fields != nil && jsontext.Kind(c.peek()) == f.kind {
		if f.kind == '[' {
			return p.list(c, f.fields)
		}
		return p.object(c, f.fields)
	}
	raw := c.next()
	if f.isAbsent(raw) {
		return p.zero(f)
	}
	value, problem := f.canonical(raw)
	if problem != "" {
		return &Error{Reason: Invalid, Detail: problem}
	}
	p.write(f, value)
	return nil
}

// zero appends the canonical form of a field that is absent. An absent object is
// an empty one: its own fields are absent.
func (p *parser) zero(f *field) *Error {
	switch {
	case f.zero == nil:
		return &Error{Reason: Invalid, Detail: "is required"}
	case f.fields != nil && f.kind == '{':
		return p.object(&cursor{json: f.zero}, f.fields)
	}
	p.write(f, f.zero)
	return nil
}

// write appends the canonical value of a field to out.
func (p *parser) write(f *field, value jsontext.Value) {
	p.out = append(p.out, value...)
	if f.captured != captureNothing {
		p.captured[f.captured] = value
	}
}

// list reads the array of objects at c and appends its canonical form to out.
func (p *parser) list(c *cursor, fields []field) *Error {
	start, overflow := len(p.out), false
	p.out = append(p.out, '[')
	c.skip()
	for i := 0; c.peek() != ']'; i++ {
		if c.peek() != '{' {
			problem := &Error{Reason: Invalid, Detail: mismatch(kindOf(c.peek()), '{')}
			return problem.in(strconv.Itoa(i))
		}
		if i > 0 {
			p.out = append(p.out, ',')
		}
		if problem := p.object(c, fields); problem != nil {
			return problem.in(strconv.Itoa(i))
		}
		if len(p.out)-start > p.limit {
			overflow = true
			p.out = p.out[:start+1] // only problems of later elements matter now
		}
	}
	c.skip()
	p.out = append(p.out, ']')
	if overflow {
		return tooLong()
	}
	return nil
}
