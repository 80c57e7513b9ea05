package find

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Held message waits for an operator: a quarantined webhook or a dead letter, or the
// tombstone that has replaced one.
type Held struct {
	Place
	Reason string `json:"reason"`          // "" in a tombstone
	Detail string `json:"detail,omitzero"` // of a quarantined webhook: what was not understood

	// Of dead letters.
	Consumer      string     `json:"consumer,omitzero"`
	EventSequence uint64     `json:"event_sequence,omitzero"`
	Deliveries    uint64     `json:"deliveries,omitzero"`
	Requeued      *time.Time `json:"requeued,omitzero"` // nil if it waits; else its consumer has not handled it yet
}

// Latest returns the newest messages of a list in the order of the stream, at most Listed.
func Latest[T any](list []T) []T { return list[max(0, len(list)-Listed):] }

// Older returns how many messages of a list [Latest] leaves out.
func Older[T any](list []T) int { return len(list) - len(Latest(list)) }

// readHeld adds the messages of a kind on a subject to the reports of whose kinds they
// are.
func (f Finder) readHeld(ctx context.Context, kind schema.Kind, subject string, idKinds []idKind, reports []Report) error {
	stream, err := f.open(ctx, kind)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has dead-lettered anything yet
		return nil
	}
	if err != nil {
		return err
	}
	// Only the body of a quarantined webhook names its interview.
	sel := subscribe.Selection{Kind: kind, Subject: subject, Organization: f.Organization, HeadersOnly: kind == schema.KindDead || subject != ">"}
	for m, err := range f.Source.Range(ctx, sel) {
		if err != nil {
			return err
		}
		h, s, ok := newHeld(kind, stream, m)
		for i := range reports {
			switch r := &reports[i]; {
			case !ok || idKinds[i].of(s) != r.ID:
			case kind == schema.KindQuarantine:
				r.Quarantined = append(r.Quarantined, h)
			default:
				r.DeadLetters = append(r.DeadLetters, h)
			}
		}
	}
	return nil
}

// newHeld returns what a message holds, and of which event that is, as far as it is
// known. It returns false for a message that holds nothing.
func newHeld(kind schema.Kind, stream jetstream.Stream, m subscribe.Message) (Held, schema.Subject, bool) {
	h, s := Held{Place: newPlace(stream, m)}, schema.Subject{ID: m.ID}
	if kind == schema.KindQuarantine {
		h.Reason, h.Detail = m.Header.Get(schema.HeaderReason), m.Header.Get(schema.HeaderDescription)
		if guess, ok := schema.GuessSubject(m.ID, m.Data); ok {
			s = guess
		}
		return h, s, h.Reason != "" || h.Erased
	}
	h.Reason = schema.DecodeReason(m.Header)
	h.EventSequence = schema.DeadSequence(m.Header)
	h.Deliveries, _ = strconv.ParseUint(m.Header.Get(schema.HeaderDeadDeliveries), 10, 64)
	h.Consumer, _, _ = schema.ParseDeadLetter(m.Subject)
	if event, err := schema.ParseSubject(m.Header.Get(schema.HeaderDeadSubject)); err == nil {
		s = event
	}
	return h, s, h.Consumer != ""
}

// readRequests sets which of the dead letters are requeued.
func (f Finder) readRequests(ctx context.Context, reports []Report) error {
	letters := map[uint64][]*Held{}
	for _, r := range reports {
		for i := range r.DeadLetters {
			h := &r.DeadLetters[i]
			letters[h.Sequence] = append(letters[h.Sequence], h)
		}
	}
	if len(letters) == 0 {
		return nil
	}
	for m, err := range f.Source.Range(ctx, subscribe.Selection{Kind: schema.KindDead, Subject: schema.RequeueFilter(f.Source.Subject, ""), HeadersOnly: true}) {
		if err != nil {
			return err
		}
		for _, h := range letters[schema.RequeuedLetter(m.Header)] {
			h.Requeued = &m.Time
		}
	}
	return nil
}
