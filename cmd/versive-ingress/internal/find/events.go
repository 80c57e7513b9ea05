package find

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Place is a stored message.
type Place struct {
	ID           string    `json:"id"` // the svix-id
	Organization string    `json:"organization,omitzero"`
	Stream       string    `json:"stream"`
	Sequence     uint64    `json:"sequence"`
	Subject      string    `json:"subject"`
	Time         time.Time `json:"time"`   // at which it was stored
	Size         int       `json:"size"`   // of its content, in bytes
	Erased       bool      `json:"erased"` // it is the tombstone that has replaced another message
}

func newPlace(stream jetstream.Stream, m subscribe.Message) Place {
	return Place{m.ID, m.Organization, stream.CachedInfo().Config.Name, m.Sequence, m.Subject, m.Time, m.Size, schema.IsSettled(m.Header)}
}

// An Event is the place of an event, or of the tombstone that has replaced it.
type Event struct {
	Place
	Type         string           `json:"type"`
	Study        string           `json:"study"`
	Interview    string           `json:"interview"`
	ErasedCopies []uint64         `json:"erased_copies"` // their sequences
	Consumers    map[string]State `json:"consumers"`     // by consumer

	// Interrupted is set if one of the copies is still stored: the erasure was interrupted.
	Interrupted bool `json:"erasure_interrupted,omitzero"`
}

// newEvent returns the event of a message, with no consumers. A message that is not an
// event has only its place.
func newEvent(stream jetstream.Stream, m subscribe.Message) Event {
	s, _ := schema.ParseSubject(m.Subject)
	e := Event{Place: newPlace(stream, m), Type: s.Type, Study: s.StudyID, Interview: s.InterviewID, ErasedCopies: []uint64{}, Consumers: map[string]State{}}
	if e.Erased {
		for _, copied := range slices.Compact(slices.Sorted(slices.Values(publish.ErasedCopies(m.Header)))) {
			if copied > 0 { // otherwise it was only in the quarantine
				e.ErasedCopies = append(e.ErasedCopies, copied)
			}
		}
	}
	return e
}

// readEvents adds the events on a subject to r, with the newest of them.
func (f Finder) readEvents(ctx context.Context, stream jetstream.Stream, subject string, r *Report) (err error) {
	if f.Organization != "" {
		return f.readEventsOf(ctx, stream, subject, r)
	}
	if r.Kind == "study" { // the others have few
		if r.Events, err = count(ctx, stream, subject, 1, time.Time{}); err != nil {
			return err
		}
	}
	if r.Events <= maxSubjects {
		// The stream's leader lists them, while a replica that counts may lag.
		subjects, err := f.subjects(ctx, stream, subject)
		if err != nil || len(subjects) == 0 {
			r.Events = 0
			return err
		}
		if r.Events = uint64(len(subjects)); r.Events <= Listed {
			events, err := lookUp(ctx, stream, subjects)
			if err == nil {
				r.setAll(events)
			}
			return err
		}
		interviews := map[string]bool{}
		for subject := range subjects {
			if s, err := schema.ParseSubject(subject); err == nil && s.InterviewID != "" {
				interviews[s.InterviewID] = true
			}
		}
		r.Interviews = new(len(interviews))
	}
	if r.List, err = f.newest(ctx, stream, subject, r.Events, Listed); err != nil {
		return err
	}
	first, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
	if err != nil {
		return fmt.Errorf("reading the first event: %w", err)
	}
	r.First = new(first.Time.UTC())
	if n := len(r.List); n > 0 {
		r.Last = &r.List[n-1].Time
	}
	return nil
}

// checkErased sets which erasures in a list were interrupted.
func checkErased(ctx context.Context, stream jetstream.Stream, list []Event) error {
	for i, e := range list {
		for _, sequence := range e.ErasedCopies {
			switch m, err := stream.GetMsg(ctx, sequence); {
			case errors.Is(err, jetstream.ErrMsgNotFound):
			case err != nil:
				return fmt.Errorf("looking up the copy %d of %s: %w", sequence, e.Subject, err)
			case m.Subject == e.Subject:
				list[i].Interrupted = true
			}
		}
	}
	return nil
}

// setAll sets all events of the report, in the order of the stream, and what follows from
// them.
func (r *Report) setAll(events []Event) {
	r.Events, r.List = uint64(len(events)), events
	if len(events) == 0 {
		return
	}
	erased, interviews := 0, map[string]bool{}
	for _, e := range events {
		if e.Erased {
			erased++
		}
		if e.Interview != "" {
			interviews[e.Interview] = true
		}
	}
	r.Erased, r.Interviews = &erased, new(len(interviews))
	r.First, r.Last = &events[0].Time, &events[len(events)-1].Time
}

// readEventsOf adds all events of the organization on a subject to r. The broker cannot
// tell them from others, so the headers of all are read.
func (f Finder) readEventsOf(ctx context.Context, stream jetstream.Stream, subject string, r *Report) error {
	var events []Event
	last := map[string]uint64{} // sequences by subject
	for m, err := range f.Source.Range(ctx, subscribe.Selection{Subject: subject, Organization: f.Organization, HeadersOnly: true}) {
		if err != nil {
			return err
		}
		events = append(events, newEvent(stream, m))
		last[m.Subject] = m.Sequence
	}
	// An erasure that was interrupted leaves the copy before its tombstone.
	r.setAll(slices.DeleteFunc(events, func(e Event) bool { return last[e.Subject] != e.Sequence }))
	return nil
}

// lookUp returns the last message on each of some subjects, in the order of the stream.
func lookUp(ctx context.Context, stream jetstream.Stream, messages map[string]uint64) ([]Event, error) {
	subjects := slices.Collect(maps.Keys(messages))
	found := make([]Event, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i, subject := range subjects {
		group.Go(func() error {
			m, err := publish.LastMessage(ctx, stream, subject)
			if err != nil {
				return fmt.Errorf("reading %s: %w", subject, err)
			}
			id, _ := schema.ParseID(subject)
			found[i] = newEvent(stream, subscribe.Message{
				ID: id, Organization: schema.Organization(m.Header), Subject: m.Subject, Header: m.Header, Sequence: m.Sequence, Time: m.Time.UTC(), Size: len(m.Data),
			})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(e Event) bool { return e.Sequence == 0 }) // removed meanwhile
	slices.SortFunc(found, func(a, b Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return found, nil
}

// Newest returns the newest events of the stream, at most n, the newest last. Their
// Consumers are empty.
func (f Finder) Newest(ctx context.Context, n int) ([]Event, error) {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return nil, err
	}
	return f.newest(ctx, stream, ">", stream.CachedInfo().State.Msgs, n)
}

// newest returns the newest of a number of events on a subject.
func (f Finder) newest(ctx context.Context, stream jetstream.Stream, subject string, events uint64, n int) ([]Event, error) {
	state := stream.CachedInfo().State
	first, span := state.FirstSeq, state.LastSeq-state.FirstSeq+1
	// They are probably among the last of the stream.
	for window := uint64(n) * 3 / 2 * span / max(events, 1); window < span; window *= 4 {
		start := state.LastSeq - window + 1
		found, err := count(ctx, stream, subject, start, time.Time{})
		if err != nil {
			return nil, err
		}
		if found >= uint64(n) {
			first = start
			break
		}
	}
	var list []Event
	for m, err := range f.Source.Range(ctx, subscribe.Selection{Subject: subject, First: first, HeadersOnly: true}) {
		if err != nil {
			return nil, err
		}
		list = append(list, newEvent(stream, m))
		if len(list) >= 2*n {
			list = slices.Delete(list, 0, len(list)-n)
		}
	}
	return list[max(0, len(list)-n):], nil
}
