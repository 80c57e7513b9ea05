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
// The type keeps its dots, so that subscribers can filter by its parts. Each
// id is one token: bytes outside [A-Za-z0-9_-] are percent-encoded, and
// [ParseSubject] gives the id back.
type Subject struct {
	Prefix      string // first token, chosen by the operator
	Type        string // for example "interview.completed"
	StudyID     string
	InterviewID string
	ID          string // the svix-id
}

// String returns the subject in NATS form.
func (s Subject) String() string {
	return s.Prefix + "." + s.relative()
}

// relative returns the subject without its first token.
func (s Subject) relative() string {
	b := make([]byte, 0, len(s.Type)+len(s.StudyID)+len(s.InterviewID)+len(s.ID)+3)
	b = append(b, s.Type...)
	for _, id := range [...]string{s.StudyID, s.InterviewID, s.ID} {
		b = append(b, '.')
		b = appendToken(b, id)
	}
	return string(b)
}

// ParseSubject is the inverse of [Subject.String]. It accepts only what
// String can have written, so two different subjects never name one event.
func ParseSubject(subject string) (Subject, error) {
	tokens := strings.Split(subject, ".")
	n := len(tokens)
	if n < 5 || slices.Contains(tokens[:n-3], "") {
		return Subject{}, fmt.Errorf("subject %q: want <prefix>.<type>.<study>.<interview>.<id>", subject)
	}
	s := Subject{Prefix: tokens[0], Type: strings.Join(tokens[1:n-3], ".")}
	for i, id := range [...]*string{&s.StudyID, &s.InterviewID, &s.ID} {
		var err error
		if *id, err = Unescape(tokens[n-3+i]); err != nil {
			return Subject{}, fmt.Errorf("subject %q: %w", subject, err)
		}
	}
	return s, nil
}

// ParseID returns the svix-id that a subject of any kind of message ends in.
func ParseID(subject string) (string, error) {
	id, err := Unescape(subject[strings.LastIndexByte(subject, '.')+1:])
	if err != nil {
		return "", fmt.Errorf("subject %q: %w", subject, err)
	}
	return id, nil
}

// below returns a subject without its first token.
func below(subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	return rest
}

// Filter chooses events by what their subjects say. The zero Filter chooses
// all; a field that is set leaves only those that have its value.
type Filter struct {
	Type        string // for example "interview.completed"
	StudyID     string
	InterviewID string
}

// anyType matches the types that there are: they all have two tokens.
const anyType = "*.*"

// Subject returns the NATS subject with wildcards that matches the chosen
// events, given its first token.
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
	return strings.Join(tokens[:], ".")
}

// Escape returns id as one subject token: bytes outside [A-Za-z0-9_-] are
// percent-encoded with upper-case digits.
func Escape(id string) string {
	return string(appendToken(make([]byte, 0, len(id)), id))
}

// Unescape is the inverse of [Escape]. A token that Escape does not write is
// an error, the empty one included.
func Unescape(token string) (string, error) {
	id, err := url.PathUnescape(token)
	if err != nil || id == "" || Escape(id) != token {
		return "", fmt.Errorf("token %q is not a percent-encoded id", token)
	}
	return id, nil
}

const upperHex = "0123456789ABCDEF"

func appendToken(b []byte, id string) []byte {
	for i := 0; i < len(id); i++ {
		c := id[i]
		if isTokenByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
