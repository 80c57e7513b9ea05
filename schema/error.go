package schema

// Reason says why an authentic body was not understood. The quarantine sorts
// by it.
type Reason string

const (
	// Malformed: not one JSON object in valid UTF-8 without duplicate names.
	Malformed Reason = "malformed"
	// UnsupportedType: the event_type is not known.
	UnsupportedType Reason = "unsupported_type"
	// Invalid: a required member is missing or a member is of a wrong type.
	Invalid Reason = "invalid"
)

// Error says why a body is not an event. It holds nothing of the body but
// names of members that the schema knows, so it may be logged.
type Error struct {
	Reason  Reason
	Pointer string // JSON Pointer (RFC 6901) to the member; "" is the whole body
	Detail  string // for people: what about the member is wrong
}

// Description returns the member and what is wrong with it, without the reason.
func (e *Error) Description() string {
	if e.Pointer == "" {
		return "body " + e.Detail
	}
	return e.Pointer + " " + e.Detail
}

func (e *Error) Error() string { return string(e.Reason) + ": " + e.Description() }
