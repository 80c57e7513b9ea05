// Package find looks up what is stored of an event, an interview or a study, and which
// consumers have it. It reads no content.
package find

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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

	// Organization restricts Find to what is of an organization, and to tombstones of
	// which that is not known; "" is everything.
	Organization string

	MaxConsumers int // that Find reads, the first by name; 0 is all
}

// A Report is what is known of an id. docs/commands.md describes its JSON to programs.
type Report struct {
	ID           string `json:"id"`
	Kind         string `json:"kind"`                  // "event", "interview" or "study"
	Organization string `json:"organization,omitzero"` // to which the report is restricted

	Events     uint64  `json:"events"`     // that are stored, or were and are erased
	Erased     *int    `json:"erased"`     // of them; nil if there are none, or more than Listed of any organization
	Interviews *int    `json:"interviews"` // that they belong to; nil if there are no events or too many to list
	List       []Event `json:"list"`       // the newest, at most Listed, the newest last

	First *time.Time `json:"first"` // when the first event was stored; nil if there is none
	Last  *time.Time `json:"last"`

	Quarantined []Held    `json:"quarantined"`
	DeadLetters []Held    `json:"dead_letters"`
	Consumers   []Reading `json:"consumers"` // empty if there are no events
}

func (r Report) isEmpty() bool {
	return r.Events == 0 && len(r.Quarantined) == 0 && len(r.DeadLetters) == 0
}

// An idKind is what an id can name.
type idKind struct {
	name   string
	filter func(id string) schema.Filter
	of     func(schema.Subject) string // the id that a subject has; "" if it has none
}

var idKinds = []idKind{
	{"event", func(id string) schema.Filter { return schema.Filter{ID: id} }, func(s schema.Subject) string { return s.ID }},
	{"interview", func(id string) schema.Filter { return schema.Filter{InterviewID: id} }, func(s schema.Subject) string { return s.InterviewID }},
	{"study", func(id string) schema.Filter { return schema.Filter{StudyID: id} }, func(s schema.Subject) string { return s.StudyID }},
}

// subject returns the subject that matches the events of an id. INGRESS_SUBJECT may have
// been another one when they were stored.
func (k idKind) subject(id string) string { return k.filter(id).Subject("*") }

// Find returns what is known of an id: a report for each kind of which something is
// stored under it, or none. With an error, it returns what it has found before.
//
// A message with the id as its svix-id is found by its subject. Only if there is none, the
// whole quarantine and all dead letters are searched for the interview or the study.
func (f Finder) Find(ctx context.Context, id string) ([]Report, error) {
	reports := make([]Report, len(idKinds))
	for i, kind := range idKinds {
		reports[i] = Report{
			ID: id, Kind: kind.name, Organization: f.Organization,
			List: []Event{}, Quarantined: []Held{}, DeadLetters: []Held{}, Consumers: []Reading{},
		}
	}
	err := f.find(ctx, id, reports)
	return slices.DeleteFunc(reports, Report.isEmpty), err
}

// find completes the reports of an id, one for each kind.
func (f Finder) find(ctx context.Context, id string, reports []Report) error {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return err
	}
	for i, kind := range idKinds {
		if err := f.readEvents(ctx, stream, kind.subject(id), &reports[i]); err != nil {
			return err
		}
	}
	for kind, subject := range map[schema.Kind]string{schema.KindQuarantine: "*.", schema.KindDead: "*.*."} {
		if err := f.readHeld(ctx, kind, subject+schema.Escape(id), idKinds[:1], reports[:1]); err != nil {
			return err
		}
	}
	search := reports[0].isEmpty()
	if search {
		if err := f.readHeld(ctx, schema.KindDead, ">", idKinds[1:], reports[1:]); err != nil {
			return err
		}
	}
	if err := f.readRequests(ctx, reports); err != nil {
		return err
	}
	if err := f.readConsumers(ctx, stream, reports); err != nil {
		return err
	}
	for _, r := range reports {
		if err := checkErased(ctx, stream, r.List); err != nil {
			return err
		}
	}
	if search { // with their content, which takes longest
		return f.readHeld(ctx, schema.KindQuarantine, ">", idKinds[1:], reports[1:])
	}
	return nil
}

// open returns a stream, whose messages are looked up at its leader.
func (f Finder) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	return publish.OpenStream(ctx, f.Source.JetStream, kind.Stream(f.Source.Stream))
}

// subjects returns the subjects of a stream that match one with wildcards, of which
// there are at most maxSubjects, and how many messages each has.
func (f Finder) subjects(ctx context.Context, stream jetstream.Stream, subject string) (map[string]uint64, error) {
	// Info changes what concurrent look-ups in stream read.
	own, err := publish.OpenStream(ctx, f.Source.JetStream, stream.CachedInfo().Config.Name)
	if err != nil {
		return nil, err
	}
	info, err := publish.ReadState(ctx, own, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}

// countThreshold is how long the broker keeps a consumer that could not be deleted.
const countThreshold = 5 * time.Second

// count returns how many messages of a stream match a subject, from a sequence on, or, if
// at is not zero, from a time on.
func count(ctx context.Context, stream jetstream.Stream, subject string, sequence uint64, at time.Time) (uint64, error) {
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
