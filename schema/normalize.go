package schema

import (
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// MaxGrowth is by how many bytes a canonical event can be longer than the
	// body it was made from: defaults are filled in.
	MaxGrowth = 64 << 10

	// MaxIDLen is the longest study or interview id, in bytes. Two of them and a
	// svix-id, percent-encoded, keep a subject far below the 4,000 bytes or so at
	// which a NATS server closes the connection.
	MaxIDLen = 256

	// typeCompleted is the one type of event that the vendor sends.
	typeCompleted = "interview.completed"
)

// Normalize turns the body of a verified webhook into the canonical event,
// version 1, ready to be stored under the svix-id it came with.
//
// It is deterministic and idempotent. Known members are written in the order
// of the vendor's documentation with their defaults filled in, then the
// unknown ones as they came, byte for byte. No number loses a digit. The
// message does not alias body.
//
// The error is always an [*Error]; the body then belongs in the quarantine
// (see [Quarantine]).
func Normalize(id string, body []byte) (Message, error) {
	p := newParser(body)
	defer p.close()
	data, err := p.document()
	if err != nil {
		return Message{}, err
	}
	subject := Subject{
		Type:        typeCompleted,
		StudyID:     unquote(p.kept[keepStudyID]),
		InterviewID: unquote(p.kept[keepInterviewID]),
		ID:          id,
	}
	return Message{
		Kind:   KindEvent,
		ID:     id,
		Header: cloudEvent(subject, p.kept[keepEndedAt]),
		Data:   data,
		tokens: subject.relative(),
	}, nil
}

// A member is a known member of an object: a scalar or opaque value of the
// given form, or, where members is set, an object or an array of objects that
// the schema knows from the inside.
type member struct {
	name    string
	form    *form
	members []member
	array   bool
	keep    keep
}

// document is the canonical event, version 1, in the order in which it is
// written.
var document = []member{
	{name: "event_type", form: text, keep: keepType},
	{name: "interview", members: []member{
		{name: "id", form: identity, keep: keepInterviewID},
		{name: "title", form: text},
		{name: "status", form: text},
		{name: "is_mock", form: boolean},
		{name: "is_archived", form: boolean},
		{name: "created_at", form: timestamp},
		{name: "started_at", form: timestamp},
		{name: "ended_at", form: timestamp, keep: keepEndedAt},
		{name: "type", form: text},
		{name: "metadata", form: metadata},
		{name: "active_time", form: number},
		{name: "recording_url", form: optional},
		{name: "transcript", form: text},
		{name: "parsed_conversation_json", array: true, members: []member{
			{name: "role", form: role},
			{name: "content", form: text},
		}},
		{name: "vid", form: optional},
	}},
	{name: "study", members: []member{
		{name: "id", form: identity, keep: keepStudyID},
		{name: "title", form: text},
		{name: "metadata", form: metadata},
		{name: "type", form: text},
		{name: "mode", form: text},
		{name: "created_at", form: timestamp},
	}},
}

// keep names the few values that are needed outside of the data: to choose
// the schema and to name the subject.
type keep int

const (
	keepNothing keep = iota
	keepType
	keepInterviewID
	keepStudyID
	keepEndedAt
	keepCount
)

// A form is the JSON type of a member's value and what is written when the
// value is absent, null or, where emptyIsAbsent says so, "".
type form struct {
	kind          jsontext.Kind
	absent        jsontext.Value // nil if the member is required
	emptyIsAbsent bool

	// normalize rewrites a value of the right type; nil keeps it as it is. What
	// cannot be accepted is described in the second result.
	normalize func(jsontext.Value) (jsontext.Value, string)
}

var (
	text      = &form{kind: '"', absent: emptyText}
	optional  = &form{kind: '"', absent: null, emptyIsAbsent: true}
	number    = &form{kind: '0', absent: null, emptyIsAbsent: true}
	boolean   = &form{kind: 't', absent: no}
	metadata  = &form{kind: '{', absent: emptyObject}
	role      = &form{kind: '"', absent: emptyText, normalize: toLower}
	timestamp = &form{kind: '"', absent: null, emptyIsAbsent: true, normalize: toUTC}
	identity  = &form{kind: '"', emptyIsAbsent: true, normalize: checkID}
)

// What is written for values that are absent.
var (
	null        = jsontext.Value("null")
	no          = jsontext.Value("false")
	emptyText   = jsontext.Value(`""`)
	emptyObject = jsontext.Value("{}")
	emptyArray  = jsontext.Value("[]")
)

// apply returns what is written for a value, or what is wrong with it.
func (f *form) apply(value jsontext.Value) (jsontext.Value, string) {
	kind := value.Kind()
	if kind == 'f' {
		kind = 't'
	}
	switch {
	case kind == 'n', f.emptyIsAbsent && string(value) == `""`:
		return f.whenAbsent()
	case kind != f.kind:
		return nil, mismatch(kind, f.kind)
	case f.normalize != nil:
		return f.normalize(value)
	}
	return value, ""
}

func (f *form) whenAbsent() (jsontext.Value, string) {
	if f.absent == nil {
		return nil, "is required"
	}
	return f.absent, ""
}
