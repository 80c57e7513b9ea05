package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// A parser reads a body once, from front to back, and writes its canonical
// form. A syntax error ends it at once. A member that cannot be accepted does
// not: whether it matters depends on the event's type, which may come last.
type parser struct {
	body    []byte
	dec     *jsontext.Decoder
	invalid *Error // the first member that cannot be accepted
	kept    [keepCount]jsontext.Value
}

// decoders keeps decoders between bodies, for the sake of the tables in them.
var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

func newParser(body []byte) *parser {
	dec := decoders.Get().(*jsontext.Decoder)
	dec.Reset(bytes.NewBuffer(body))
	return &parser{body: body, dec: dec}
}

// close gives the decoder back, without the body.
func (p *parser) close() {
	p.dec.Reset(new(bytes.Buffer))
	decoders.Put(p.dec)
	p.dec = nil
}

// document reads the whole body and returns the canonical event.
func (p *parser) document() ([]byte, error) {
	if kind := p.dec.PeekKind(); kind != '{' {
		if _, err := p.value(); err != nil {
			return nil, err
		}
		return nil, &Error{Reason: Malformed, Detail: mismatch(kind, '{')}
	}
	data, err := p.object(make([]byte, 0, len(p.body)+1024), document)
	if err != nil {
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
	case len(data) > len(p.body)+MaxGrowth:
		return nil, &Error{Reason: Invalid, Detail: tooLong}
	}
	return data, nil
}

// tooLong refuses a body whose canonical form would not fit where the body
// does.
var tooLong = fmt.Sprintf("lacks so many members that its canonical form is over %d bytes longer", MaxGrowth)

// object reads an object and appends its canonical form to dst: the known
// members in their order, then the unknown ones in theirs.
func (p *parser) object(dst []byte, members []member) ([]byte, error) {
	if _, err := p.dec.ReadToken(); err != nil { // the brace
		return nil, p.malformed(err)
	}
	var (
		known   [16]jsontext.Value // what is written for members[i]; no object has more
		unknown []byte             // `,"name":value` for each
	)
	for p.dec.PeekKind() != '}' {
		name, err := p.value()
		if err != nil {
			return nil, err
		}
		if i := find(members, name); i >= 0 {
			if known[i], err = p.member(&members[i]); err != nil {
				return nil, err
			}
			continue
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		unknown = append(unknown, ',')
		unknown = append(unknown, name...)
		unknown = append(unknown, ':')
		unknown = append(unknown, value...)
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, p.malformed(err)
	}

	separator := byte('{')
	for i := range members {
		m := &members[i]
		if known[i] == nil {
			known[i] = p.absent(m, m.name)
		}
		dst = append(dst, separator, '"')
		dst = append(dst, m.name...)
		dst = append(dst, '"', ':')
		dst = append(dst, known[i]...)
		separator = ','
	}
	dst = append(dst, unknown...)
	return append(dst, '}'), nil
}

// member reads the value of a known member and returns what is written for
// it. The result is not nil.
func (p *parser) member(m *member) (jsontext.Value, error) {
	kind := p.dec.PeekKind()
	switch {
	case m.array && kind == '[':
		return p.array(m.members)
	case !m.array && kind == '{' && m.members != nil:
		return p.object(p.room(), m.members)
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

// array reads an array of objects and returns its canonical form.
func (p *parser) array(members []member) (jsontext.Value, error) {
	if _, err := p.dec.ReadToken(); err != nil { // the bracket
		return nil, p.malformed(err)
	}
	dst := append(p.room(), '[')
	over := false
	for p.dec.PeekKind() != ']' {
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		if kind := p.dec.PeekKind(); kind != '{' {
			if _, err := p.value(); err != nil {
				return nil, err
			}
			p.refuse(mismatch(kind, '{'))
			continue
		}
		var err error
		if dst, err = p.object(dst, members); err != nil {
			return nil, err
		}
		if len(dst) > len(p.body)+MaxGrowth {
			over = true
			dst = dst[:1] // it will not be written
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, p.malformed(err)
	}
	if over {
		return p.refuse(tooLong), nil
	}
	return append(dst, ']'), nil
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

// room returns an empty buffer for the canonical form of the value that
// starts here: if nothing is filled in, it is no longer than what is left.
func (p *parser) room() []byte {
	return make([]byte, 0, len(p.body)-int(p.dec.InputOffset()))
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
