package schema

import "bytes"

const (
	// MaxGrowth is the largest number of bytes by which a canonical event can be
	// longer than the body that it was made from: the defaults that are filled in.
	MaxGrowth = 64 << 10

	// MaxIDLen is the longest study or interview id, in bytes. Two of them and a
	// svix-id, percent-encoded, keep a subject far below the 4,000 bytes or so at
	// which a NATS server closes the connection.
	MaxIDLen = 256
)

// Normalize makes the canonical event of a verified webhook: the message to be
// stored, under the svix-id of the webhook.
//
// Known members are written in the order of the vendor's documentation, with
// defaults for those that are absent; the unknown ones follow in the order of
// the body, byte for byte. Numbers keep all their digits. The same body always
// gives the same message, and normalizing its data again changes nothing.
//
// The error is always an [*Error]; the body then belongs in the quarantine
// (see [Quarantine]). The message refers to no memory of body. Normalize is
// safe for concurrent use.
func Normalize(id string, body []byte) (Message, error) {
	e, err := parse(body)
	if err != nil {
		return Message{}, err
	}
	s := Subject{Type: e.Type, StudyID: e.StudyID, InterviewID: e.InterviewID, ID: id}
	return Message{
		Kind: KindEvent,
		ID:   id,
		Header: newHeader(
			headerSpecVersion, "1.0",
			headerID, encodeHeader(id),
			headerType, typePrefix+e.Type,
			headerSource, s.source(),
			headerSubject, encodeHeader(e.InterviewID),
			headerTime, e.time,
			headerDataContentType, "application/json",
			headerDataSchema, e.eventType.urn,
		),
		Data:   e.Data,
		tokens: s.relative(),
	}, nil
}

// Reason is the class of problem for which an authentic body cannot be
// normalized. The quarantine is sorted by it.
type Reason string

const (
	// Malformed: the body is not one JSON object in valid UTF-8 without duplicate
	// member names.
	Malformed Reason = "malformed"
	// UnsupportedType: the event_type is not known.
	UnsupportedType Reason = "unsupported_type"
	// Invalid: a required member is missing, or a member has the wrong type.
	Invalid Reason = "invalid"
)

// Error is the reason why a body is not an event. It holds nothing of the body
// but the names of members that the schema knows, so it may be logged.
type Error struct {
	Reason  Reason
	Pointer string // JSON Pointer (RFC 6901) to the member; "" is the whole body
	Detail  string // the problem with the member, to follow its name in a sentence
}

// in returns the error as seen from the object or array that the value belongs
// to, given the value's name or index.
func (e *Error) in(name string) *Error {
	e.Pointer = "/" + name + e.Pointer
	return e
}

// Description returns the member and its problem, without the reason.
func (e *Error) Description() string {
	if e.Pointer == "" {
		return "body " + e.Detail
	}
	return e.Pointer + " " + e.Detail
}

// Error returns the reason and the description.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Description() }

// Headers of a quarantined message. The headers of the request are kept under
// names that begin with HeaderHTTP: under their own names, the broker could take
// them for commands.
const (
	HeaderReason      = "Ingress-Reason"      // the [Reason]; of a dead letter, see [DecodeReason]
	HeaderDescription = "Ingress-Description" // see [Error.Description]
	HeaderHTTP        = "Ingress-Http-"       // prefix: Ingress-Http-Svix-Id, and so on
)

// Quarantine returns the message that keeps the body of a verified webhook
// exactly as it was received, because Normalize returned the given error. It
// keeps every header in origin, percent-encoded, so the caller passes only the
// verified ones and the content type. The message does not alias body.
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
	return Message{Kind: KindQuarantine, ID: id, Header: header, Data: bytes.Clone(body), tokens: Escape(id)}
}
