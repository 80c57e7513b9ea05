// Package erasure finds and erases what is stored of interviews and studies, makes the
// erasure durable on an embedded broker, and keeps a record of it.
package erasure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Target is what is erased: an interview, or a study except its interviews.
type Target struct {
	Interview, Study string // one of them is ""
}

// String names the target, for messages.
func (t Target) String() string {
	if t.Study != "" {
		return "study " + t.Study
	}
	return "interview " + t.Interview
}

// filter selects the events of the target.
func (t Target) filter() schema.Filter {
	return schema.Filter{StudyID: t.Study, InterviewID: t.Interview, NoInterview: t.Study != ""}
}

// Counts are numbers of messages of a target.
type Counts struct {
	Events       int `json:"events"`
	Quarantined  int `json:"quarantined"`
	DeadLetters  int `json:"dead_letters"`
	ErasedBefore int `json:"erased_before"` // events, by earlier erasures
	Left         int `json:"left"`          // that were found and are not erased
}

// add counts a message that was found as erased.
func (c *Counts) add(kind schema.Kind) {
	*[...]*int{&c.Events, &c.Quarantined, &c.DeadLetters}[kind]++
	c.Left--
}

// An Erasure removes what is stored of some targets.
type Erasure struct {
	conn    *broker.Connection
	targets []Target
	index   map[Target]int // of the targets
	ids     words          // of the targets
	eraser  publish.Eraser

	counts     []Counts       // by target, of what Find has found and Run has erased
	events     map[string]int // targets by the svix-ids of their events, erased ones included
	tombstones []int          // by target, in the event stream
	// overwritten holds the sequences of what was erased, by this erasure and by
	// earlier ones. In the quarantine and the dead letters, nothing shows of which
	// interview that was, so these are all that were ever deleted there.
	overwritten map[schema.Kind][]uint64
	unreadable  [schema.Kinds]error // by Kind, of streams with messages that Find could not read
}

// New returns the erasure of targets.
func New(c *broker.Connection, targets ...Target) *Erasure {
	e := &Erasure{conn: c, index: make(map[Target]int), ids: make(words), eraser: c.Eraser()}
	for _, t := range targets {
		if _, ok := e.index[t]; !ok {
			e.index[t] = len(e.targets)
			e.ids.add(t.Interview+t.Study, len(e.targets))
			e.targets = append(e.targets, t)
		}
	}
	e.counts = make([]Counts, len(e.targets))
	return e
}

// A Match is a stored message that holds something of a target.
type Match struct {
	subscribe.Message // without header and data
	kind              schema.Kind
	target            int
	// later is the subject in the event stream under which a later schema would
	// store a quarantined webhook; "" if the webhook does not name its type and ids.
	later string
	// other is the interview to which a quarantined webhook that mentions the target belongs;
	// "" if that is the target, or not known.
	other string
}

// Find looks through the three streams. It returns the events first, so that
// they are erased first: a consumer that dead-letters an event looks for the
// event's tombstone after it has stored the dead letter.
//
// The events are read before the others, for their ids, and once more after
// them: a requeue stores an event before it deletes the quarantined webhook, so
// one of the two exists at any time, and in the end the event does.
//
// Messages that cannot be read are passed over; Unreadable returns which.
func (e *Erasure) Find(ctx context.Context) ([]Match, error) {
	e.events, e.overwritten, e.unreadable = make(map[string]int), make(map[schema.Kind][]uint64), [schema.Kinds]error{}
	if _, err := e.findEvents(ctx); err != nil {
		return nil, err
	}
	quarantined, err := e.find(ctx, subscribe.Selection{Kind: schema.KindQuarantine, Subject: broker.AnySubject})
	if err != nil {
		return nil, err
	}
	dead, err := e.find(ctx, subscribe.Selection{Kind: schema.KindDead, Subject: broker.AnySubject})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has given up on anything yet
		return nil, err
	}
	events, err := e.findEvents(ctx)
	if err != nil {
		return nil, err
	}
	found := slices.Concat(events, quarantined, dead)
	for i := range e.counts {
		e.counts[i].Left = 0
		if e.erased() == 0 { // later, the tombstones are those of this erasure as well
			e.counts[i].ErasedBefore = e.tombstones[i]
		}
	}
	for _, t := range found {
		e.counts[t.target].Left++
	}
	return found, nil
}

// Unreadable returns an error with the messages that Find could not read, of which some may
// belong to a target, or nil if there are none.
func (e *Erasure) Unreadable() error { return errors.Join(e.unreadable[:]...) }

// maxFilters is the number of targets up to which the events of each are read by their
// subject. For more, reading the headers of all events is faster.
const maxFilters = 100

func (e *Erasure) findEvents(ctx context.Context) (found []Match, err error) {
	if len(e.targets) > maxFilters {
		found, err = e.findOn(ctx, broker.AnySubject)
		if err != nil || e.unreadable[schema.KindEvent] == nil {
			return found, err
		}
		e.unreadable[schema.KindEvent] = nil // it may be an event of another interview, which is seen only by subject
	}
	var subjects []string
	for _, t := range e.targets {
		subjects = append(subjects, t.filter().Subject("*"))
	}
	return e.findOn(ctx, subjects...)
}

// findOn looks through the events on subjects.
func (e *Erasure) findOn(ctx context.Context, subjects ...string) (found []Match, err error) {
	e.tombstones = make([]int, len(e.targets))
	for _, subject := range subjects {
		part, err := e.find(ctx, subscribe.Selection{Kind: schema.KindEvent, Subject: subject, HeadersOnly: true})
		if err != nil {
			return nil, err
		}
		found = append(found, part...)
	}
	return found, nil
}

// find looks through one stream. It records what was overwritten there, and what cannot be
// read.
func (e *Erasure) find(ctx context.Context, selection subscribe.Selection) (found []Match, err error) {
	kind, last, stored := selection.Kind, uint64(0), make(map[uint64]bool)
	for m, err := range e.conn.Source.Range(ctx, selection) {
		if _, unreadable := errors.AsType[*subscribe.UnreadableError](err); unreadable {
			e.unreadable[kind] = err
			break
		}
		if err != nil {
			return nil, err
		}
		match, ok := e.inspect(kind, m)
		copies := publish.ErasedCopies(m.Header)
		if ok {
			match.Header, match.Data = nil, nil
			found, stored[m.Sequence] = append(found, match), true
		} else if kind == schema.KindEvent && slices.ContainsFunc(copies, func(copied uint64) bool { return stored[copied] }) {
			e.tombstones[match.target]-- // an erasure was interrupted before it deleted the copy
		}
		e.overwritten[kind] = append(e.overwritten[kind], copies...)
		for missing := last + 1; kind != schema.KindEvent && last > 0 && missing < m.Sequence; missing++ {
			e.overwritten[kind] = append(e.overwritten[kind], missing)
		}
		last = m.Sequence
	}
	return found, nil
}

// inspect reports whether a message holds something of a target.
func (e *Erasure) inspect(kind schema.Kind, m subscribe.Message) (t Match, ok bool) {
	t = Match{Message: m, kind: kind}
	switch {
	case kind == schema.KindEvent:
		s, err := schema.ParseSubject(m.Subject)
		if err != nil {
			return t, false
		}
		if t.target, ok = e.owner(s); !ok {
			return t, false
		}
		e.events[m.ID] = t.target
		if m.Erased() {
			e.tombstones[t.target]++
		}
		return t, !m.Erased()
	case m.Erased(), schema.RequeuedLetter(m.Header) > 0: // which has no effect once the dead letter is erased
		return t, false
	case kind == schema.KindQuarantine:
		s, understood := schema.GuessSubject(m.ID, m.Data)
		if understood {
			if t.target, ok = e.owner(s); ok {
				s.Prefix, _, _ = strings.Cut(m.Subject, ".")
				s.Prefix = strings.TrimSuffix(s.Prefix, schema.KindQuarantine.Prefix(""))
				t.later = s.String()
				return t, true
			}
			t.other = s.InterviewID
		}
		// A study is no reason to erase what belongs to an interview.
		t.target, ok = e.mentioned(m, func(target int) bool { return e.targets[target].Study == "" || !understood })
		return t, ok
	default:
		// The header of a dead letter names its interview, unless it was not an event.
		if s, err := schema.ParseSubject(m.Header.Get(schema.HeaderDeadSubject)); err == nil {
			t.target, ok = e.owner(s)
			return t, ok
		}
		t.target, ok = e.mentioned(m, func(int) bool { return true })
		return t, ok
	}
}

// owner returns the target to which the event with a subject belongs.
func (e *Erasure) owner(s schema.Subject) (target int, ok bool) {
	t := Target{Interview: s.InterviewID}
	if s.InterviewID == "" {
		t.Study = s.StudyID
	}
	target, ok = e.index[t]
	return target, ok
}

// mentioned returns a target that is accepted and whose id a message holds, or to whose
// events the message belongs by its svix-id.
func (e *Erasure) mentioned(m subscribe.Message, accept func(target int) bool) (target int, ok bool) {
	if target, ok = e.events[m.ID]; ok && accept(target) {
		return target, true
	}
	texts := [][]byte{m.Data}
	for _, values := range m.Header {
		for _, value := range values {
			texts = append(texts, []byte(value))
		}
	}
	for _, text := range texts {
		for target := range e.ids.mentionedIn(text) {
			if accept(target) {
				return target, true
			}
		}
	}
	return 0, false
}

// erased returns how many messages Run has erased.
func (e *Erasure) erased() (n int) {
	for _, c := range e.counts {
		n += c.Events + c.Quarantined + c.DeadLetters
	}
	return n
}

// passes bounds how often Run erases the messages that Find returns: some may have
// been stored, or dead-lettered, during the pass before.
const passes = 3

// maxErrors bounds the errors that Run returns.
const maxErrors = 10

// Run erases the matches, and then those that Find still finds, until it finds none.
// It calls done for each match. If it is interrupted, another erasure of the same targets
// erases the rest.
func (e *Erasure) Run(ctx context.Context, found []Match, done func()) error {
	for pass := 0; len(found) > 0; pass++ {
		if pass == passes {
			return fmt.Errorf("%s keep coming: %s after %d passes; run it again", e, terminal.Plural(len(found), "message", "messages"), passes)
		}
		left := 0
		var failed []error
		for i, t := range found {
			err := e.erase(ctx, t)
			if err == nil {
				e.counts[t.target].add(t.kind)
				done()
				continue
			}
			if ctx.Err() != nil {
				err = fmt.Errorf("%w; run the same command again for the rest", context.Cause(ctx))
			}
			if left++; len(failed) < maxErrors {
				failed = append(failed, err)
			}
			// A broker that is away or full would keep the others waiting, too.
			failure, ok := errors.AsType[*publish.Error](err)
			if ok && failure.Reason() != "refused" || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
				left += len(found[i+1:])
				break
			}
		}
		if left > 0 {
			return fmt.Errorf("%d of %d messages may be left: %w", left, len(found), errors.Join(failed...))
		}
		var err error
		if found, err = e.Find(ctx); err != nil {
			return fmt.Errorf("checking whether anything is left: %w", err)
		}
	}
	return nil
}

func (e *Erasure) erase(ctx context.Context, t Match) error {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	if t.later != "" {
		if err := e.eraser.PutTombstone(ctx, schema.KindEvent, t.later); err != nil {
			return err
		}
	}
	return e.eraser.Erase(ctx, publish.Copy{Kind: t.kind, Subject: t.Subject, Sequence: t.Sequence})
}
