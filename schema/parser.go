package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// A parser reads a body once, from front to back, and writes its canonical
// form. A syntax error ends it at once. A member that cannot be accepted does
// not: whether it matters depends on the event's type, which may come last.
type parser struct {
	body    []byte
	dec     jsontext.Decoder
	invalid *Error // the first member that cannot be accepted
	kept    [keepCount]jsontext.Value

	// written holds the canonical forms of objects and arrays inside of others,
	// one after another. Values refer to it, as they do to body.
	written []byte
}

// parsers keeps parsers between bodies, for the sake of the tables and buffers
// in them.
var parsers = sync.Pool{New: func() any { return new(parser) }}

// maxWritten bounds the buffers that are kept, in bytes.
const maxWritten = 256 << 10

func newParser(body []byte) *parser {
	p := parsers.Get().(*parser)
	p.body = body
	p.dec.Reset(bytes.NewBuffer(body))
	// A conversation is written into its interview, and that into the event.
	p.written = slices.Grow(p.written, 2*len(body)+1024)
	return p
}

// close gives the parser back, without references to the body.
func (p *parser) close() {
	p.dec.Reset(new(bytes.Buffer))
	p.body, p.invalid, p.kept = nil, nil, [keepCount]jsontext.Value{}
	if p.written = p.written[:0]; cap(p.written) > maxWritten {
		p.written = nil
	}
	parsers.Put(p)
}

// document reads the whole body and returns the canonical event.
func (p *parser) document() ([]byte, error) {
	if kind := p.dec.PeekKind(); kind != '{' {
		if _, err := p.value(); err != nil {
			return nil, err
		}
		return nil, &Error{Reason: Malformed, Detail: mismatch(kind, '{')}
	}
	var event object
	if err := p.object(document, &event); err != nil {
		return nil, err
	}
	if _, err := p.dec.ReadToken(); err != io.EOF {
		return nil, p.malformed(err)
	}

	eventType := p.kept[keepType]
	switch {
	case eventType == nil: // not a string
		return nil, p.invalid
	case unquote(eventType) != typeCompleted:
		return nil, &Error{Reason: UnsupportedType, Pointer: "/event_type", Detail: "is not a known event type"}
	case p.invalid != nil:
		return nil, p.invalid
	case event.size() > len(p.body)+MaxGrowth:
		return nil, &Error{Reason: Invalid, Detail: tooLong}
	}
	return event.append(make([]byte, 0, event.size())), nil
}

// tooLong refuses a body whose canonical form would not fit where the body
// does.
var tooLong = fmt.Sprintf("lacks so many members that its canonical form is over %d bytes longer", MaxGrowth)

// An object is what is written for a JSON object: the known members in their
// order, then the unknown ones in theirs.
type object struct {
	members []member
	known   [16]jsontext.Value // values of members; no object has more
	unknown []byte             // `,"name":value` for each
}

// object reads an object into o, in place of what o was.
func (p *parser) object(members []member, o *object) error {
	if _, err := p.dec.ReadToken(); err != nil { // the brace
		return p.malformed(err)
	}
	o.members, o.unknown = members, o.unknown[:0]
	clear(o.known[:len(members)])
	for p.dec.PeekKind() != '}' {
		name, err := p.value()
		if err != nil {
			return err
		}
		if i := find(members, name); i >= 0 {
			if o.known[i], err = p.member(&members[i]); err != nil {
				return err
			}
			continue
		}
		value, err := p.value()
		if err != nil {
			return err
		}
		o.unknown = append(o.unknown, ',')
		o.unknown = append(o.unknown, name...)
		o.unknown = append(o.unknown, ':')
		o.unknown = append(o.unknown, value...)
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return p.malformed(err)
	}
	for i := range members {
		if o.known[i] == nil {
			o.known[i] = p.absent(&members[i], members[i].name)
		}
	}
	return nil
}

// size returns how many bytes append writes.
func (o *object) size() int {
	n := len(o.unknown) + len("}")
	for i := range o.members {
		n += len(`,"":`) + len(o.members[i].name) + len(o.known[i])
	}
	return n
}

func (o *object) append(dst []byte) []byte {
	separator := byte('{')
	for i := range o.members {
		dst = append(dst, separator, '"')
		dst = append(dst, o.members[i].name...)
		dst = append(dst, '"', ':')
		dst = append(dst, o.known[i]...)
		separator = ','
	}
	dst = append(dst, o.unknown...)
	return append(dst, '}')
}

// member reads the value of a known member and returns what is written for
// it. The result is not nil.
func (p *parser) member(m *member) (jsontext.Value, error) {
	kind := p.dec.PeekKind()
	switch {
	case m.array && kind == '[':
		return p.array(m.members)
	case !m.array && kind == '{' && m.members != nil:
		var o object
		if err := p.object(m.members, &o); err != nil {
			return nil, err
		}
		start := len(p.written)
		p.written = o.append(p.written)
		return p.written[start:], nil
	}
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	if m.array && isEmptyObject(value) {
		return p.absent(m), nil
	}
	if m.members != nil {
		if kind == 'n' {
			return p.absent(m), nil
		}
		want := jsontext.Kind('{')
		if m.array {
			want = '['
		}
		return p.refuse(mismatch(kind, want)), nil
	}
	value, problem := m.form.apply(value)
	if problem != "" {
		return p.refuse(problem), nil
	}
	p.kept[m.keep] = value
	return value, nil
}

// absent returns what is written for a member that is missing or null at path,
// which is relative to where the decoder stands.
func (p *parser) absent(m *member, path ...string) jsontext.Value {
	switch {
	case m.array:
		return emptyArray
	case m.members != nil: // an object is as required as its first member
		return p.absent(&m.members[0], append(path, m.members[0].name)...)
	}
	value, problem := m.form.whenAbsent()
	if problem != "" {
		return p.refuse(problem, path...)
	}
	p.kept[m.keep] = value
	return value
}

// array reads an array of objects and returns its canonical form. None of
// their members is written before them: they are scalars or opaque.
func (p *parser) array(members []member) (jsontext.Value, error) {
	if _, err := p.dec.ReadToken(); err != nil { // the bracket
		return nil, p.malformed(err)
	}
	start := len(p.written)
	p.written = append(p.written, '[')
	over := false
	var o object
	for kind := p.dec.PeekKind(); kind != ']'; kind = p.dec.PeekKind() {
		if len(p.written) > start+1 {
			p.written = append(p.written, ',')
		}
		if kind != '{' {
			if _, err := p.value(); err != nil {
				return nil, err
			}
			p.refuse(mismatch(kind, '{'))
			continue
		}
		if err := p.object(members, &o); err != nil {
			return nil, err
		}
		p.written = o.append(p.written)
		if len(p.written)-start > len(p.body)+MaxGrowth {
			over = true
			p.written = p.written[:start+1] // it will not be written
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, p.malformed(err)
	}
	if over {
		return p.refuse(tooLong), nil
	}
	p.written = append(p.written, ']')
	return p.written[start:], nil
}

// value reads the next value, or a member's name, as it stands in the body.
func (p *parser) value() (jsontext.Value, error) {
	value, err := p.dec.ReadValue()
	if err != nil {
		return nil, p.malformed(err)
	}
	// The decoder's own slice is valid only until the next call.
	end := int(p.dec.InputOffset())
	return p.body[end-len(value) : end], nil
}

// refuse remembers the first member that cannot be accepted: the one at path,
// which is relative to where the decoder stands.
func (p *parser) refuse(problem string, path ...string) jsontext.Value {
	if p.invalid == nil {
		pointer := p.dec.StackPointer()
		for _, name := range path {
			pointer = pointer.AppendToken(name)
		}
		p.invalid = &Error{Reason: Invalid, Pointer: string(pointer), Detail: problem}
	}
	return null
}

// malformed describes a syntax error by its place alone: the library's own
// text quotes the body.
func (p *parser) malformed(err error) error {
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

// find returns the index of the member that a name, as it stands in the body,
// names, or -1.
func find(members []member, name jsontext.Value) int {
	if bytes.IndexByte(name, '\\') >= 0 {
		name = quote(unquote(name))
	}
	for i := range members {
		if string(name[1:len(name)-1]) == members[i].name {
			return i
		}
	}
	return -1
}

func isEmptyObject(value jsontext.Value) bool {
	return value.Kind() == '{' && len(bytes.TrimSpace(value[1:len(value)-1])) == 0
}
