package schema

// Kind says to which stream a message belongs. The streams' names and first
// subject tokens derive from the two that the operator chooses.
type Kind int

const (
	// KindEvent: canonical events, for everyone.
	KindEvent Kind = iota
	// KindQuarantine: raw bodies that were authentic but not understood.
	KindQuarantine
)

// Stream returns the name of the stream, given that of the event stream.
func (k Kind) Stream(events string) string {
	if k == KindQuarantine {
		return events + "_QUARANTINE"
	}
	return events
}

// Prefix returns the first token of the stream's subjects, given that of the
// events.
func (k Kind) Prefix(events string) string {
	if k == KindQuarantine {
		return events + "-quarantine"
	}
	return events
}

// Message is an event, or a body for the quarantine, as it is stored.
// [Normalize] and [Quarantine] make it; it is not changed afterwards.
type Message struct {
	Kind   Kind
	ID     string              // the svix-id: the idempotency key
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

// Headers of a quarantined message. Those of the request are kept under names
// of our own: a header of a request must never reach the broker, which takes
// some as commands.
const (
	HeaderReason      = "Ingress-Reason"      // the [Reason]
	HeaderDescription = "Ingress-Description" // see [Error.Description]
	HeaderHTTP        = "Ingress-Http-"       // prefix: Ingress-Http-Svix-Id, …
)

// Quarantine makes the message that keeps the body of a verified webhook
// exactly as it came, because Normalize returned reason. From origin it keeps
// every header, so the caller passes only the verified ones and the content
// type. The message aliases body.
func Quarantine(id string, body []byte, reason *Error, origin map[string][]string) Message {
	header := map[string][]string{
		HeaderReason:      {string(reason.Reason)},
		HeaderDescription: {reason.Description()},
	}
	for name, values := range origin {
		for _, value := range values {
			header[HeaderHTTP+name] = append(header[HeaderHTTP+name], encodeHeader(value))
		}
	}
	return Message{Kind: KindQuarantine, ID: id, Header: header, Data: body, tokens: Escape(id)}
}
