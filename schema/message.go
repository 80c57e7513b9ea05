package schema

import (
	"fmt"
	"strings"
)

// Kind is the kind of a message, and with it the stream that the message
// belongs to. The streams' names and the first tokens of their subjects derive
// from those of the event stream, which the operator chooses.
type Kind int

const (
	// KindEvent is the kind of canonical events and of their tombstones.
	KindEvent Kind = iota
	// KindQuarantine is the kind of raw bodies that were authentic but could not
	// be normalized.
	KindQuarantine
	// KindDead is the kind of dead letters: events that a consumer has given up
	// on.
	KindDead

	// Kinds is the number of kinds. Its range is all of them.
	Kinds
)

// Stream returns the name of the kind's stream, given that of the event
// stream.
func (k Kind) Stream(events string) string {
	return events + [...]string{"", "_QUARANTINE", "_DEAD"}[k]
}

// Prefix returns the first token of the kind's subjects, given that of the
// events.
func (k Kind) Prefix(events string) string {
	return events + [...]string{"", "-quarantine", "-dead"}[k]
}

// Keys of a stream's metadata, which record the ingress that owns the stream and
// the kind of its messages. A stream without them was created by hand, by an older
// version, or on a broker before nats-server 2.10, which keeps no metadata.
const (
	MetadataStream = "versive-ingress.stream" // the event stream of its ingress
	MetadataKind   = "versive-ingress.kind"   // event, quarantine or dead
)

// Metadata returns the metadata of the stream of this kind, given the name of the
// event stream.
func (k Kind) Metadata(events string) map[string]string {
	return map[string]string{MetadataStream: events, MetadataKind: k.name()}
}

// CheckOwner returns an error if, by its metadata, an existing stream is not the
// stream of this kind, given the name of the event stream. The stream's name is
// not enough: the quarantine of ingress A can have the name of the event stream
// of another ingress.
func (k Kind) CheckOwner(events string, metadata map[string]string) error {
	for key, want := range k.Metadata(events) {
		if have := metadata[key]; have != "" && have != want {
			return fmt.Errorf("is the %s stream of ingress %s, not the %s stream of ingress %s",
				metadata[MetadataKind], metadata[MetadataStream], k.name(), events)
		}
	}
	return nil
}

func (k Kind) name() string { return [...]string{"event", "quarantine", "dead"}[k] }

// Message is an event, a quarantined body, a dead letter or a tombstone, as it
// is stored. [Normalize], [Quarantine], [DeadLetter] and [Tombstone] return
// messages, which only [Message.WithOrganization] modifies afterwards.
type Message struct {
	Kind   Kind
	ID     string              // the Nats-Msg-Id: the svix-id, except as DeadLetter and Tombstone document
	Header map[string][]string // without the headers that a broker defines
	Data   []byte

	tokens string // the subject without its first token
}

// Subject returns the message's subject, given the first token of the events'
// subjects.
func (m Message) Subject(prefix string) string {
	return m.Kind.Prefix(prefix) + "." + m.tokens
}

// Stored returns the message of a kind that a stream has stored under subject, without
// the headers that a broker defines, so that it can be stored in another stream. It
// refers to the memory of its arguments.
func Stored(kind Kind, subject string, header map[string][]string, data []byte) Message {
	m := Message{Kind: kind, ID: first(header, "Nats-Msg-Id"), Header: withoutBroker(header), Data: data}
	_, m.tokens, _ = strings.Cut(subject, ".")
	return m
}

// withoutBroker returns a copy of a header without what the broker defines: commands to
// it, and its annotations.
func withoutBroker(header map[string][]string) map[string][]string {
	kept := make(map[string][]string, len(header)+4)
	for name, values := range header {
		if !strings.HasPrefix(name, "Nats-") {
			kept[name] = values
		}
	}
	return kept
}

// Receipt states where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // the message was stored before this call
	Erased    bool // and is known to have been erased since: its subject has a tombstone
}

// MaxSvixIDLen is the longest svix-id, in bytes.
const MaxSvixIDLen = 128

// ValidID reports whether id can be a svix-id: 1 to [MaxSvixIDLen] printable
// ASCII bytes without spaces. A svix-id becomes a header and, encoded, a subject
// token.
func ValidID(id string) bool {
	return id != "" && len(id) <= MaxSvixIDLen && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}
