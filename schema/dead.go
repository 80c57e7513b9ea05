package schema

import (
	"maps"
	"strconv"
	"strings"
)

// Headers of a dead letter, beside those of the event and [HeaderReason].
const (
	HeaderDeadSubject    = "Ingress-Dead-Subject"    // the event's own subject
	HeaderDeadSequence   = "Ingress-Dead-Sequence"   // its sequence in the event stream
	HeaderDeadDeliveries = "Ingress-Dead-Deliveries" // how often it was delivered
)

// maxDeadReason bounds the reason in the header of a dead letter, in bytes:
// all headers of a message share 64 KiB.
const maxDeadReason = 1 << 10

// Dead says which event a consumer has given up on, and why.
type Dead struct {
	Consumer   string // the durable consumer's name
	Reason     string // cut after 1 KiB; must not hold content of an interview
	ID         string // the event's svix-id
	Subject    string // the event's subject
	Sequence   uint64 // in the event stream
	Deliveries uint64
}

// DeadLetter makes the message that keeps an event which a consumer has given
// up on, with the event's own header and data, so that [Decode] reads it. Its
// ID names the consumer as well, for several may give up on one event, and the
// sequence, for one may give up on an event and on its tombstone. The message
// aliases data.
func DeadLetter(d Dead, header map[string][]string, data []byte) Message {
	kept := maps.Clone(header)
	maps.DeleteFunc(kept, func(name string, _ []string) bool {
		return strings.HasPrefix(name, "Nats-") // commands to a broker, or notes of one
	})
	if kept == nil {
		kept = make(map[string][]string)
	}
	kept[HeaderReason] = []string{encodeHeader(strings.ToValidUTF8(d.Reason[:min(len(d.Reason), maxDeadReason)], ""))}
	kept[HeaderDeadSubject] = []string{d.Subject}
	kept[HeaderDeadSequence] = []string{strconv.FormatUint(d.Sequence, 10)}
	kept[HeaderDeadDeliveries] = []string{strconv.FormatUint(d.Deliveries, 10)}
	tokens := Escape(d.Consumer) + "." + Escape(d.ID)
	return Message{Kind: KindDead, ID: tokens + ":" + strconv.FormatUint(d.Sequence, 10), Header: kept, Data: data, tokens: tokens}
}

// DecodeReason returns the reason that a header of a dead letter gives.
func DecodeReason(header map[string][]string) string {
	if values := header[HeaderReason]; len(values) > 0 {
		return decodeHeader(values[0])
	}
	return ""
}
