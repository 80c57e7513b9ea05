package schema

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
