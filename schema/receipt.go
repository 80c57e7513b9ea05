package schema

// Receipt states where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // the message was stored before this call
}
