// Package find looks up what is stored of an event, an interview or a study, and which
// consumers have it. It reads no content.
package find

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// Listed bounds the events of a report, of which it has the newest. Each may be in
	// another block of the stream, which the broker reads as a whole.
	Listed = 10

	// maxSubjects is how many subjects the broker returns in one reply. It collects all
	// that match for each reply, so a second part is not requested.
	maxSubjects = 100_000

	// concurrency bounds the requests that wait for the broker at the same time.
	concurrency = 16
)

// A Finder looks up what is in the streams of an ingress. It may be used concurrently.
type Finder struct {
	Source subscribe.Source // its Stream and Subject are set
}

// A Report is what is known of an id. docs/commands.md describes its JSON to programs.
type Report struct {
	ID   string `json:"id"`
	Kind string `json:"kind"` // "event", "interview" or "study"

	Events     uint64  `json:"events"`     // that are stored, or were and are erased
	Erased     *int    `json:"erased"`     // of them; nil if there are none or more than Listed
	Interviews *int    `json:"interviews"` // that they belong to; nil if there are no events or too many to list
	List       []Event `json:"list"`       // the newest, at most Listed, the newest last

	First *time.Time `json:"first"` // when the first event was stored; nil if there is none
	Last  *time.Time `json:"last"`

	Quarantined []Held    `json:"quarantined"`
	DeadLetters []Held    `json:"dead_letters"`
	Unsearched  []Skipped `json:"unsearched"`
	Consumers   []Reading `json:"consumers"` // empty if there are no events
}

// An Event is the place of an event, or of the tombstone that has replaced it.
type Event struct {
	ID           string            `json:"id"` // the svix-id
	Type         string            `json:"type"`
	Study        string            `json:"study"`
	Interview    string            `json:"interview"`
	Organization string            `json:"organization,omitzero"`
	Stream       string            `json:"stream"`
	Sequence     uint64            `json:"sequence"`
	Subject      string            `json:"subject"`
	Time         time.Time         `json:"time"` // at which it was stored
	Size         int               `json:"size"` // of its content, in bytes
	Erased       bool              `json:"erased"`
	ErasedCopies []uint64          `json:"erased_copies"` // their sequences
	Consumers    map[string]string `json:"consumers"`     // states by consumer; see [State]
}

// newEvent returns the event of a message, with no consumers. A message that is not an
// event has only its place.
func newEvent(stream string, m subscribe.Message) Event {
	s, err := schema.ParseSubject(m.Subject)
	if err != nil {
		s = schema.Subject{ID: m.ID}
	}
	e := Event{
		ID: s.ID, Type: s.Type, Study: s.StudyID, Interview: s.InterviewID, Organization: schema.Organization(m.Header),
		Stream: stream, Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Size: m.Size,
		Erased: m.Erased(), ErasedCopies: []uint64{}, Consumers: map[string]string{},
	}
	if e.Erased {
		copies := publish.ErasedCopies(m.Header)
		slices.Sort(copies)
		e.ErasedCopies = append(e.ErasedCopies, slices.Compact(copies)...)
	}
	return e
}

// A kind is what an id can name.
type kind struct {
	name   string
	filter func(id string) schema.Filter
	of     func(schema.Subject) string // the id that a subject has; "" if it has none
}

var kinds = [...]kind{
	{"event", func(id string) schema.Filter { return schema.Filter{ID: id} }, func(s schema.Subject) string { return s.ID }},
	{"interview", func(id string) schema.Filter { return schema.Filter{InterviewID: id} }, func(s schema.Subject) string { return s.InterviewID }},
	{"study", func(id string) schema.Filter { return schema.Filter{StudyID: id} }, func(s schema.Subject) string { return s.StudyID }},
}

// subject returns the subject that matches the events of an id. INGRESS_SUBJECT may have
// been another one when they were stored.
func (k kind) subject(id string) string { return k.filter(id).Subject("*") }

// Find returns what is known of an id: a report for each kind of which something is
// stored under it, or none.
func (f Finder) Find(ctx context.Context, id string) ([]Report, error) {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return nil, err
	}
	var reports []Report
	var consumers []consumer
	for _, kind := range kinds {
		r := Report{ID: id, Kind: kind.name, List: []Event{}, Consumers: []Reading{}}
		subject := kind.subject(id)
		if err := f.readEvents(ctx, stream, subject, &r); err != nil {
			return nil, err
		}
		if err := f.readHeld(ctx, kind, &r); err != nil {
			return nil, err
		}
		if r.Events > 0 {
			if consumers == nil {
				if consumers, err = f.readConsumers(ctx, stream); err != nil {
					return nil, err
				}
			}
			if err := f.addReadings(ctx, stream, consumers, subject, &r); err != nil {
				return nil, err
			}
		}
		if r.Events > 0 || len(r.Quarantined) > 0 || len(r.DeadLetters) > 0 {
			reports = append(reports, r)
		}
	}
	return reports, nil
}

// readEvents adds the events on a subject to r, with the newest of them.
func (f Finder) readEvents(ctx context.Context, stream jetstream.Stream, subject string, r *Report) (err error) {
	if r.Kind == "study" { // the others have few
		if r.Events, err = f.count(ctx, stream, subject, 1, time.Time{}); err != nil {
			return err
		}
	}
	var subjects []string
	if r.Events <= maxSubjects {
		// The stream's leader lists them, while a replica that counts may lag.
		if subjects, err = f.subjects(ctx, stream, subject); err != nil || len(subjects) == 0 {
			r.Events = 0
			return err
		}
		r.Events = uint64(len(subjects))
		interviews := map[string]bool{}
		for _, subject := range subjects {
			if s, err := schema.ParseSubject(subject); err == nil && s.InterviewID != "" {
				interviews[s.InterviewID] = true
			}
		}
		r.Interviews = new(len(interviews))
	}
	if r.Events > Listed {
		if r.List, err = f.newest(ctx, stream, subject, r.Events, Listed); err != nil {
			return err
		}
		first, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
		if err != nil {
			return fmt.Errorf("reading the first event: %w", err)
		}
		r.First = new(first.Time.UTC())
	} else {
		if r.List, err = f.lookUp(ctx, stream, subjects); err != nil {
			return err
		}
		r.Events = uint64(len(r.List)) // others were removed meanwhile
		r.Erased = new(0)
		for _, e := range r.List {
			if e.Erased {
				*r.Erased++
			}
		}
	}
	if n := len(r.List); n > 0 {
		r.First, r.Last = cmp.Or(r.First, &r.List[0].Time), &r.List[n-1].Time
	}
	return nil
}

// lookUp returns the last message on each of some subjects, in the order of the stream.
func (f Finder) lookUp(ctx context.Context, stream jetstream.Stream, subjects []string) ([]Event, error) {
	found := make([]*Event, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i, subject := range subjects {
		group.Go(func() error {
			m, err := stream.GetLastMsgForSubject(ctx, subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) { // removed meanwhile
				return nil
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", subject, err)
			}
			e := newEvent(stream.CachedInfo().Config.Name, subscribe.Message{
				Subject: m.Subject, Header: m.Header, Sequence: m.Sequence, Time: m.Time.UTC(), Size: len(m.Data),
			})
			found[i] = &e
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var events []Event
	for _, e := range found {
		if e != nil {
			events = append(events, *e)
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return events, nil
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
		found, err := f.count(ctx, stream, subject, start, time.Time{})
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
		list = append(list, newEvent(stream.CachedInfo().Config.Name, m))
		if len(list) >= 2*n {
			list = slices.Delete(list, 0, len(list)-n)
		}
	}
	return list[max(0, len(list)-n):], nil
}

// open returns a stream, whose messages are looked up at its leader.
func (f Finder) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	name := kind.Stream(f.Source.Stream)
	stream, err := f.Source.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	publish.ReadFromLeader(stream)
	return stream, nil
}

// subjects returns the subjects of a stream that match one with wildcards, of which
// there are at most maxSubjects.
func (f Finder) subjects(ctx context.Context, stream jetstream.Stream, subject string) ([]string, error) {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return nil, fmt.Errorf("listing the subjects of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	publish.ReadFromLeader(stream) // Info has replaced what it had read before
	list := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		list = append(list, subject)
	}
	return list, nil
}

// countThreshold is how long the broker keeps a consumer that could not be deleted.
const countThreshold = 5 * time.Second

// count returns how many messages of a stream match a subject, from a sequence on, or, if
// at is not zero, from a time on.
func (f Finder) count(ctx context.Context, stream jetstream.Stream, subject string, sequence uint64, at time.Time) (uint64, error) {
	config := jetstream.ConsumerConfig{
		FilterSubject:     subject,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(sequence, 1),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: countThreshold,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if !at.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &at
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return 0, fmt.Errorf("counting the messages of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	info := consumer.CachedInfo()
	_ = stream.DeleteConsumer(ctx, info.Name) // otherwise the broker removes it
	if info.NumPending > math.MaxInt64 {
		return 0, nil
	}
	return info.NumPending, nil
}
