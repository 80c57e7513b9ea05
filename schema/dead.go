package schema

import (
	"strconv"
	"strings"
)

// Headers of a dead letter, in addition to those of the event and
// [HeaderReason].
const (
	HeaderDeadSubject    = "Ingress-Dead-Subject"    // the event's own subject
	HeaderDeadSequence   = "Ingress-Dead-Sequence"   // its sequence in the event stream
	HeaderDeadDeliveries = "Ingress-Dead-Deliveries" // how often it was delivered
)

// maxDeadReason bounds the reason in the header of a dead letter, in bytes:
// all headers of a message share 64 KiB.
const maxDeadReason = 1 << 10

// Dead describes the event that a consumer has given up on, and the reason.
type Dead struct {
	Consumer   string // the durable consumer's name
	Reason     string // cut after 1 KiB; must not hold content of an interview
	ID         string // the event's svix-id
	Subject    string // the event's subject
	Sequence   uint64 // in the event stream
	Deliveries uint64
}

// DeadLetter returns the message that keeps an event that a consumer has given
// up on. It has the event's own header, without the broker's, so that [Decode]
// reads it, and its Data is data itself.
//
// Its ID names the consumer too, because several may give up on one event, and
// the sequence, because one consumer may give up on an event and then on its
// tombstone.
func DeadLetter(d Dead, header map[string][]string, data []byte) Message {
	kept := withoutBroker(header)
	kept[HeaderReason] = []string{encodeHeader(strings.ToValidUTF8(d.Reason[:min(len(d.Reason), maxDeadReason)], ""))}
	kept[HeaderDeadSubject] = []string{d.Subject}
	kept[HeaderDeadSequence] = []string{strconv.FormatUint(d.Sequence, 10)}
	kept[HeaderDeadDeliveries] = []string{strconv.FormatUint(d.Deliveries, 10)}
	tokens := Escape(d.Consumer) + "." + Escape(d.ID)
	return Message{Kind: KindDead, ID: tokens + ":" + strconv.FormatUint(d.Sequence, 10), Header: kept, Data: data, tokens: tokens}
}

// DecodeReason returns the reason in the header of a dead letter, or "" if
// there is none.
func DecodeReason(header map[string][]string) string {
	return decodeHeader(first(header, HeaderReason))
}
