package schema

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Subject is the address of an event in the stream, written as
//
//	<prefix>.<type>.<study id>.<interview id>.<id>
//
// The type keeps its dot, so that subscribers can filter by its parts. Each id
// is one token: bytes outside [A-Za-z0-9_-] are percent-encoded, and
// [ParseSubject] returns the original. The token of a study or interview id
// that the type lacks is a bare "%", which no id is encoded as.
type Subject struct {
	Prefix      string // first token, chosen by the operator
	Type        string // for example "interview.completed"
	StudyID     string // "" if events of the type belong to no study
	InterviewID string // "" if events of the type belong to no interview
	ID          string // the svix-id
}

// noID is the token of an id that the type lacks.
const noID = "%"

// String returns the subject as NATS writes it.
func (s Subject) String() string {
	return s.Prefix + "." + s.relative()
}

// relative returns the subject without its first token.
func (s Subject) relative() string {
	return s.Type + "." + cmp.Or(Escape(s.StudyID), noID) + "." + cmp.Or(Escape(s.InterviewID), noID) + "." + Escape(s.ID)
}

// ParseSubject is the inverse of [Subject.String]. It accepts only what String
// can have written, so that two different subjects never name one event.
func ParseSubject(subject string) (Subject, error) {
	tokens := strings.Split(subject, ".")
	n := len(tokens)
	if n < 5 || slices.Contains(tokens[:n-3], "") {
		return Subject{}, fmt.Errorf("subject %q: want <prefix>.<type>.<study>.<interview>.<id>", subject)
	}
	s := Subject{Prefix: tokens[0], Type: strings.Join(tokens[1:n-3], ".")}
	for i, id := range [...]*string{&s.StudyID, &s.InterviewID, &s.ID} {
		token := tokens[n-3+i]
		if token == noID && id != &s.ID {
			continue
		}
		var err error
		if *id, err = Unescape(token); err != nil {
			return Subject{}, fmt.Errorf("subject %q: %w", subject, err)
		}
	}
	return s, nil
}

// ParseID returns the svix-id that the subject of a message of any kind ends
// in.
func ParseID(subject string) (string, error) {
	id, err := Unescape(subject[strings.LastIndexByte(subject, '.')+1:])
	if err != nil {
		return "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return id, nil
}

// Filter selects events by their subjects. The zero Filter selects all events;
// each field that is set leaves only those that have its value.
type Filter struct {
	Type        string // for example "interview.completed"
	StudyID     string
	InterviewID string
	NoInterview bool   // only events that belong to no interview; InterviewID must be ""
	ID          string // the svix-id
}

// anyType matches every event type: their names are two tokens.
const anyType = "*.*"

// Subject returns the NATS subject, with wildcards, that matches the selected
// events. The prefix is the first token of their subjects.
func (f Filter) Subject(prefix string) string {
	if f == (Filter{}) {
		return prefix + ".>"
	}
	tokens := [...]string{prefix, cmp.Or(f.Type, anyType), "*", "*", "*"}
	if f.StudyID != "" {
		tokens[2] = Escape(f.StudyID)
	}
	if f.InterviewID != "" {
		tokens[3] = Escape(f.InterviewID)
	}
	if f.NoInterview {
		tokens[3] = noID
	}
	if f.ID != "" {
		tokens[4] = Escape(f.ID)
	}
	return strings.Join(tokens[:], ".")
}

// Escape returns an id as one subject token: bytes outside [A-Za-z0-9_-] are
// percent-encoded with upper-case digits.
func Escape(id string) string {
	return escape(id, func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
	})
}

// escape percent-encodes the bytes of s that are not safe.
func escape(s string, safe func(byte) bool) string {
	i := 0
	for i < len(s) && safe(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	escaped := []byte(s[:i])
	for ; i < len(s); i++ {
		if safe(s[i]) {
			escaped = append(escaped, s[i])
		} else {
			escaped = fmt.Appendf(escaped, "%%%02X", s[i])
		}
	}
	return string(escaped)
}

// Unescape is the inverse of [Escape]. A token that Escape does not write is
// an error, and so is the empty one.
func Unescape(token string) (string, error) {
	id, err := url.PathUnescape(token)
	if err != nil || id == "" || Escape(id) != token {
		return "", fmt.Errorf("token %q is not a percent-encoded id", token)
	}
	return id, nil
}
