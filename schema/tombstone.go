package schema

import (
	"net/url"
	"regexp"
	"strconv"

	"github.com/go-json-experiment/json"
)

// HeaderErased marks a tombstone: a message without data that stands for an
// erased one under the same subject. It keeps a resend from being stored again
// and tells consumers to erase what they made of the event.
const HeaderErased = "Ingress-Erased"

// TypeErased is the CloudEvents type of a tombstone in the event stream.
const TypeErased = "versive-ingress.interview.erased"

// IsTombstone reports whether header is that of a tombstone.
func IsTombstone(header map[string][]string) bool { return len(header[HeaderErased]) > 0 }

// IsSettled reports whether nothing is left to be done about a message of the
// quarantine or of the dead letters: it is the tombstone of one. A tombstone that
// a consumer has given up on has a reason, and is a dead letter like any other.
func IsSettled(header map[string][]string) bool {
	return IsTombstone(header) && len(header[HeaderReason]) == 0
}

// Tombstone makes the message that takes the place of the copy stored under
// subject, a subject of the given kind, at sequence. Its ID is its own: with
// the copy's, a broker would take it for a duplicate. In the event stream it is
// a CloudEvent as well, about the same interview of the same study.
func Tombstone(kind Kind, subject string, sequence uint64) (Message, error) {
	id, err := ParseID(subject)
	if err != nil {
		return Message{}, err
	}
	m := Message{
		Kind:   kind,
		ID:     "erased:" + id + ":" + strconv.FormatUint(sequence, 10),
		Header: map[string][]string{HeaderErased: {"true"}},
		tokens: below(subject),
	}
	if kind != KindEvent {
		return m, nil
	}
	s, err := ParseSubject(subject)
	if err != nil {
		return Message{}, err
	}
	m.Header[headerSpecVersion] = []string{"1.0"}
	m.Header[headerID] = []string{encodeHeader(m.ID)}
	m.Header[headerType] = []string{TypeErased}
	m.Header[headerSource] = []string{sourcePrefix + url.PathEscape(s.StudyID)}
	m.Header[headerSubject] = []string{encodeHeader(s.InterviewID)}
	return m, nil
}

// plainType matches what types of events look like; see [Filter].
var plainType = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Identify returns the subject, but for its prefix, under which a later schema
// would store a body that is not understood today: where its tombstone belongs.
// It reports false if the body does not say enough, in the places of today.
func Identify(id string, body []byte) (Subject, bool) {
	var b struct {
		Type      string `json:"event_type"`
		Interview struct {
			ID string `json:"id"`
		} `json:"interview"`
		Study struct {
			ID string `json:"id"`
		} `json:"study"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return Subject{}, false
	}
	for _, id := range [...]string{b.Interview.ID, b.Study.ID} {
		if id == "" || len(id) > MaxIDLen {
			return Subject{}, false
		}
	}
	return Subject{Type: b.Type, StudyID: b.Study.ID, InterviewID: b.Interview.ID, ID: id}, plainType.MatchString(b.Type)
}
