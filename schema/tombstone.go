package schema

import (
	"maps"
	"strconv"
	"strings"
)

// HeaderErased names the header that marks a tombstone: a message without data
// that replaces an erased one under the same subject. A tombstone keeps a resend
// from being stored again, and is the request to consumers to erase what they
// derived from the event.
const HeaderErased = "Ingress-Erased"

// CloudEvents types of tombstones in the event stream.
const (
	TypeErased      = "versive-ingress.interview.erased" // of an event that belongs to an interview
	TypeStudyErased = "versive-ingress.study.erased"     // of an event that belongs to a study alone
)

// IsTombstone reports whether a header is that of a tombstone.
func IsTombstone(header map[string][]string) bool { return len(header[HeaderErased]) > 0 }

// IsSettled reports whether a message of the quarantine or of the dead letters
// needs no further action: whether it is the tombstone of one. A tombstone that a
// consumer has given up on has a reason, and is a dead letter like any other.
func IsSettled(header map[string][]string) bool {
	return IsTombstone(header) && len(header[HeaderReason]) == 0
}

// Tombstone returns the message that replaces the copy stored at a sequence
// under subject, which must be a subject of the given kind. The tombstone has an
// ID of its own: under the copy's ID, a broker would drop it as a duplicate. In
// the event stream it is also a CloudEvent about the same interview and study.
func Tombstone(kind Kind, subject string, sequence uint64) (Message, error) {
	id, err := ParseID(subject)
	if err != nil {
		return Message{}, err
	}
	m := Message{
		Kind:   kind,
		ID:     "erased:" + id + ":" + strconv.FormatUint(sequence, 10),
		Header: newHeader(HeaderErased, "true"),
		tokens: subject[strings.IndexByte(subject, '.')+1:],
	}
	if kind == KindEvent {
		s, err := ParseSubject(subject)
		if err != nil {
			return Message{}, err
		}
		maps.Copy(m.Header, newHeader(
			headerSpecVersion, "1.0",
			headerID, encodeHeader(m.ID),
			headerType, s.ErasedType(),
			headerSource, s.source(),
			headerSubject, encodeHeader(s.InterviewID),
		))
	}
	return m, nil
}

// ErasedType returns the CloudEvents type of the tombstone under an event's
// subject.
func (s Subject) ErasedType() string {
	if s.InterviewID == "" {
		return TypeStudyErased
	}
	return TypeErased
}

// GuessSubject returns the subject, without its prefix, under which a later
// version of the schema would store a body that cannot be normalized today:
// the place of its tombstone.
//
// It guesses that the ids stay where they are: for an event type that is known,
// where its table has them; for another, in /study/id and /interview/id, of which
// the type may lack one. It reports false if the body is malformed, or if an id
// is missing or invalid.
func GuessSubject(id string, body []byte) (Subject, bool) {
	root, problem := check(body)
	if problem != nil {
		return Subject{}, false
	}
	s := Subject{Type: textOf(lookup(root, "/event_type")), ID: id}
	t := typeNamed(s.Type)
	known := t != nil
	if !known {
		t = &eventType{studyID: "/study/id", interviewID: "/interview/id"}
	}
	for pointer, found := range map[string]*string{t.studyID: &s.StudyID, t.interviewID: &s.InterviewID} {
		value := lookup(root, pointer)
		if pointer == "" || value == nil && !known {
			continue // the type lacks this id, or may lack it
		}
		value, detail := identity.canonical(value)
		if detail != "" {
			return Subject{}, false
		}
		*found = textOf(value)
	}
	return s, typeName.MatchString(s.Type) && s.StudyID+s.InterviewID != ""
}
