package find

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// maxLookedUp is the largest number of interviews that are looked up one by one. For
	// more of them, the subjects or headers of all events are read.
	maxLookedUp = 1000

	// Part is how many interviews the command has in memory at the same time. It reads the
	// streams once for each such part of a list, and finds duplicates only within a part.
	Part = 1_000_000
)

// An Absence is why an interview has no event.
type Absence string

// Absences, and Stored for an interview that has an event.
const (
	Stored      Absence = "stored"
	Missing     Absence = "missing"     // nothing of it is stored
	Quarantined Absence = "quarantined" // a webhook in the quarantine names it
	Erased      Absence = "erased"
)

// Interviews are those of a part of a list, in its order, without duplicates.
type Interviews struct {
	ids   []string
	state map[string]Absence
}

// All returns the interviews and their absences.
func (i *Interviews) All() iter.Seq2[string, Absence] {
	return func(yield func(string, Absence) bool) {
		for _, id := range i.ids {
			if !yield(id, i.state[id]) {
				return
			}
		}
	}
}

// ReadInterviews yields a list of interview ids, as [terminal.ReadIDs] reads it, in parts
// of at most size.
func ReadInterviews(r io.Reader, size int) iter.Seq2[*Interviews, error] {
	return func(yield func(*Interviews, error) bool) {
		part := &Interviews{state: map[string]Absence{}}
		for id, err := range terminal.ReadIDs(r, schema.MaxIDLen) {
			if err != nil {
				yield(nil, fmt.Errorf("reading the list: %w", err))
				return
			}
			if _, ok := part.state[id]; ok {
				continue
			}
			part.ids, part.state[id] = append(part.ids, id), Missing
			if len(part.ids) == size {
				if !yield(part, nil) {
					return
				}
				part = &Interviews{state: map[string]Absence{}}
			}
		}
		if len(part.ids) > 0 {
			yield(part, nil)
		}
	}
}

// Missing sets which of the interviews are absent, and why.
func (f Finder) Missing(ctx context.Context, list *Interviews, progress *terminal.Progress) error {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return err
	}
	quarantine, err := f.open(ctx, schema.KindQuarantine)
	if err != nil {
		return err
	}
	switch {
	case len(list.ids) <= maxLookedUp:
		err = f.lookUpAll(ctx, stream, list)
	case neverErased(stream) && neverErased(quarantine):
		err = f.readSubjects(ctx, stream, list)
	default:
		err = f.readHeaders(ctx, list, progress)
	}
	if err == nil {
		err = f.readQuarantine(ctx, quarantine, list)
	}
	return err
}

// neverErased reports whether there are few enough messages to list their subjects, and
// none was ever removed. An erasure of a quarantined webhook puts a tombstone in the event
// stream and removes nothing there.
func neverErased(stream jetstream.Stream) bool {
	state := stream.CachedInfo().State
	return state.NumSubjects <= maxSubjects && state.NumDeleted == 0 && state.FirstSeq <= 1
}

// readSubjects reads the subjects of all events, of which none is a tombstone.
func (f Finder) readSubjects(ctx context.Context, stream jetstream.Stream, list *Interviews) error {
	subjects, err := f.subjects(ctx, stream, ">")
	if err != nil {
		return err
	}
	for subject := range subjects {
		if s, err := schema.ParseSubject(subject); err == nil && list.state[s.InterviewID] == Missing {
			list.state[s.InterviewID] = Stored
		}
	}
	return nil
}

// readHeaders reads the headers of all events, which distinguish tombstones.
func (f Finder) readHeaders(ctx context.Context, list *Interviews, progress *terminal.Progress) error {
	defer progress.Clear()
	for m, err := range f.Source.Range(ctx, subscribe.Selection{Subject: ">", HeadersOnly: true}) {
		if err != nil {
			return err
		}
		progress.Expect(m.Pending + 1)
		progress.Add()
		s, err := schema.ParseSubject(m.Subject)
		if err != nil {
			continue
		}
		state, listed := list.state[s.InterviewID]
		switch {
		case !listed || state == Stored:
		case m.Erased():
			list.state[s.InterviewID] = Erased
		default:
			list.state[s.InterviewID] = Stored
		}
	}
	return nil
}

// lookUpAll looks up the events of each interview.
func (f Finder) lookUpAll(ctx context.Context, stream jetstream.Stream, list *Interviews) error {
	var mu sync.Mutex // guards list.state
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for _, id := range list.ids {
		group.Go(func() error {
			state, err := f.lookUpInterview(ctx, stream, id)
			mu.Lock()
			list.state[id] = state
			mu.Unlock()
			return err
		})
	}
	return group.Wait()
}

func (f Finder) lookUpInterview(ctx context.Context, stream jetstream.Stream, id string) (Absence, error) {
	subject := schema.Filter{InterviewID: id}.Subject("*")
	last, err := publish.LastMessage(ctx, stream, subject)
	switch {
	case err != nil:
		return Missing, fmt.Errorf("looking up an interview: %w", err)
	case last.Sequence == 0:
		return Missing, nil
	case !schema.IsTombstone(last.Header):
		return Stored, nil
	}
	subjects, err := f.subjects(ctx, stream, subject)
	if err != nil {
		return Missing, err
	}
	events, err := lookUp(ctx, stream, subjects)
	for _, e := range events {
		if !e.Erased {
			return Stored, err
		}
	}
	return Erased, err
}

// readQuarantine looks for the missing interviews in the bodies of the quarantine.
func (f Finder) readQuarantine(ctx context.Context, stream jetstream.Stream, list *Interviews) error {
	missing := false
	for _, state := range list.All() {
		missing = missing || state == Missing
	}
	if !missing || stream.CachedInfo().State.Msgs == 0 {
		return nil
	}
	for m, err := range f.Source.Range(ctx, subscribe.Selection{Kind: schema.KindQuarantine, Subject: ">"}) {
		if err != nil {
			return err
		}
		s, ok := schema.GuessSubject(m.ID, m.Data)
		if ok && list.state[s.InterviewID] == Missing {
			list.state[s.InterviewID] = Quarantined
		}
	}
	return nil
}
