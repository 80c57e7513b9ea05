package schema

// Kind says to which stream a message belongs. The streams' names and first
// subject tokens derive from the two that the operator chooses.
type Kind int

const (
	// KindEvent: canonical events, for everyone.
	KindEvent Kind = iota
	// KindQuarantine: raw bodies that were authentic but not understood.
	KindQuarantine
	// KindDead: events that a consumer has given up on.
	KindDead
)

// Stream returns the name of the stream, given that of the event stream.
func (k Kind) Stream(events string) string {
	return events + [...]string{"", "_QUARANTINE", "_DEAD"}[k]
}

// Prefix returns the first token of the stream's subjects, given that of the
// events.
func (k Kind) Prefix(events string) string {
	return events + [...]string{"", "-quarantine", "-dead"}[k]
}

// Message is an event, a body for the quarantine or a dead letter, as it is
// stored. [Normalize], [Quarantine] and [DeadLetter] make it; it is not changed
// afterwards.
type Message struct {
	Kind   Kind
	ID     string              // the idempotency key: the svix-id, but see DeadLetter
	Header map[string][]string // without those that a broker defines
	Data   []byte

	tokens string // the subject below its first token
}

// Subject returns the message's subject, given the first token of the events'.
func (m Message) Subject(prefix string) string {
	return m.Kind.Prefix(prefix) + "." + m.tokens
}

// MaxSvixIDLen is the longest svix-id, in bytes.
const MaxSvixIDLen = 128

// ValidID reports whether id can be a svix-id: 1 to [MaxSvixIDLen] printable
// ASCII bytes without spaces. It becomes a header and, encoded, a subject token.
func ValidID(id string) bool {
	if id == "" || len(id) > MaxSvixIDLen {
		return false
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}
