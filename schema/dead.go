package schema

import (
	"fmt"
	"strconv"
	"strings"
)

// Headers of a dead letter, in addition to those of the event and
// [HeaderReason].
const (
	HeaderDeadSubject    = "Ingress-Dead-Subject"    // the event's own subject
	HeaderDeadSequence   = "Ingress-Dead-Sequence"   // its sequence in the event stream
	HeaderDeadDeliveries = "Ingress-Dead-Deliveries" // how often it was delivered

	// HeaderDeadForwarded marks a dead letter that an edge has forwarded to a hub: the
	// consumer is at the edge.
	HeaderDeadForwarded = "Ingress-Dead-Forwarded"
)

// HeaderRequeue names the header of a request to requeue a dead letter, whose sequence
// in its stream is the value.
const HeaderRequeue = "Ingress-Requeue"

// requeueToken distinguishes the subject of a request from that of its dead letter.
const requeueToken = "requeue"

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

// DeadSequence returns the sequence in the event stream of a dead letter's event, or 0 if
// the header is not that of a dead letter.
func DeadSequence(header map[string][]string) uint64 { return sequence(header, HeaderDeadSequence) }

// ParseDeadLetter returns the consumer and the svix-id that the subject of a dead letter
// names.
func ParseDeadLetter(subject string) (consumer, id string, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 3 {
		return "", "", fmt.Errorf("%q is not the subject of a dead letter", subject)
	}
	if consumer, err = Unescape(tokens[1]); err != nil {
		return "", "", err
	}
	id, err = Unescape(tokens[2])
	return consumer, id, err
}

// Requeue returns the request to a consumer to handle the event of its dead letter once
// more: of the letter with this svix-id and this sequence. It has no ID, with which the
// broker would drop the request that follows another one as a duplicate.
func Requeue(consumer, id string, sequence uint64) Message {
	return Message{
		Kind:   KindDead,
		Header: newHeader(HeaderRequeue, strconv.FormatUint(sequence, 10)),
		tokens: Escape(consumer) + "." + requeueToken + "." + Escape(id),
	}
}

// RequeueFilter returns the subject, with wildcards, of the requests to a consumer, or to
// all if that is "", given the first token of the events' subjects.
func RequeueFilter(prefix, consumer string) string {
	token := "*"
	if consumer != "" {
		token = Escape(consumer)
	}
	return KindDead.Prefix(prefix) + "." + token + "." + requeueToken + ".*"
}

// RequeuedLetter returns the sequence of the dead letter that a request names, or 0 if
// the header is not that of a request.
func RequeuedLetter(header map[string][]string) uint64 { return sequence(header, HeaderRequeue) }

func sequence(header map[string][]string, name string) uint64 {
	n, _ := strconv.ParseUint(first(header, name), 10, 64)
	return n
}
