package schema

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
