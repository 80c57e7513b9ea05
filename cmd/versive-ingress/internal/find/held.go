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

// maxSearched is how many messages of the quarantine and of the dead letters are searched
// for an interview or a study, which their subjects do not name. They are the newest.
const maxSearched = 1000

// A Held message waits for an operator: a quarantined webhook or a dead letter, or the
// tombstone that has replaced one.
type Held struct {
	ID           string    `json:"id"` // the svix-id
	Stream       string    `json:"stream"`
	Sequence     uint64    `json:"sequence"`
	Subject      string    `json:"subject"`
	Time         time.Time `json:"time"` // at which it was stored
	Size         int       `json:"size"` // of its content, in bytes
	Erased       bool      `json:"erased"`
	Reason       string    `json:"reason"` // "" in a tombstone
	Organization string    `json:"organization,omitzero"`
	Detail       string    `json:"detail,omitzero"` // of a quarantined webhook: what was not understood

	// Of dead letters.
	Consumer      string `json:"consumer,omitzero"`
	EventSequence uint64 `json:"event_sequence,omitzero"`
	Deliveries    uint64 `json:"deliveries,omitzero"`
}

// Skipped are messages of a stream that were not searched, because there are too many.
type Skipped struct {
	Stream   string `json:"stream"`
	Messages uint64 `json:"messages"` // at least, by their sequences
}

// readHeld adds to r the quarantined webhooks and the dead letters that have its id.
func (f Finder) readHeld(ctx context.Context, of kind, r *Report) error {
	svixID := of.filter(r.ID).ID // "" if the id is of an interview or a study
	has := func(s schema.Subject) bool { return of.of(s) == r.ID }
	r.Quarantined, r.DeadLetters, r.Unsearched = []Held{}, []Held{}, []Skipped{}
	for _, kind := range [...]schema.Kind{schema.KindQuarantine, schema.KindDead} {
		stream, err := f.open(ctx, kind)
		if errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has dead-lettered anything yet
			continue
		}
		if err != nil {
			return err
		}
		// Only the body of a quarantined webhook names its interview.
		sel := subscribe.Selection{Kind: kind, Subject: ">", HeadersOnly: svixID != "" || kind == schema.KindDead}
		name, state := stream.CachedInfo().Config.Name, stream.CachedInfo().State
		switch {
		case svixID != "":
			sel.Subject = map[schema.Kind]string{schema.KindQuarantine: "*.", schema.KindDead: "*.*."}[kind] + schema.Escape(svixID)
		case state.Msgs > maxSearched:
			sel.First = state.LastSeq - maxSearched + 1
			r.Unsearched = append(r.Unsearched, Skipped{name, state.Msgs - maxSearched})
		case state.Msgs == 0:
			continue
		}
		for m, err := range f.Source.Range(ctx, sel) {
			if err != nil {
				return err
			}
			if h, ok := newHeld(kind, name, m, has); ok && kind == schema.KindQuarantine {
				r.Quarantined = append(r.Quarantined, h)
			} else if ok {
				r.DeadLetters = append(r.DeadLetters, h)
			}
		}
	}
	return nil
}

// newHeld returns what a message holds, and whether its subject as an event has.
func newHeld(kind schema.Kind, stream string, m subscribe.Message, has func(schema.Subject) bool) (Held, bool) {
	h := Held{
		ID: m.ID, Stream: stream, Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Size: m.Size,
		Erased: schema.IsSettled(m.Header), Organization: m.Organization,
	}
	s := schema.Subject{ID: m.ID}
	if kind == schema.KindQuarantine {
		h.Reason, h.Detail = m.Header.Get(schema.HeaderReason), m.Header.Get(schema.HeaderDescription)
		if guess, ok := schema.GuessSubject(m.ID, m.Data); ok {
			s = guess
		}
		return h, has(s) && (h.Reason != "" || h.Erased)
	}
	h.Reason = schema.DecodeReason(m.Header)
	h.EventSequence = schema.DeadSequence(m.Header)
	h.Deliveries, _ = strconv.ParseUint(m.Header.Get(schema.HeaderDeadDeliveries), 10, 64)
	h.Consumer, _, _ = schema.ParseDeadLetter(m.Subject)
	if event, err := schema.ParseSubject(m.Header.Get(schema.HeaderDeadSubject)); err == nil {
		s = event
	}
	return h, has(s) && h.Consumer != ""
}
