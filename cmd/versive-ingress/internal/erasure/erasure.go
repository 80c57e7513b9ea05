// Package erasure finds and erases what is stored of an interview or a study, and
// makes the erasure durable on an embedded broker.
package erasure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// An Erasure removes what is stored of one interview, or of one study except
// its interviews.
type Erasure struct {
	conn             *broker.Connection
	interview, study string // one of them is ""
	eraser           publish.Eraser

	ids        map[string]bool // svix-ids of the interview's events, erased ones included
	tombstones int             // of the interview, in the event stream
	// overwritten holds the sequences of what was erased, by this erasure and by
	// earlier ones. In the quarantine and the dead letters, nothing shows of which
	// interview that was, so these are all that were ever deleted there.
	overwritten map[schema.Kind][]uint64
}

// New returns the erasure of an interview or of a study: one of the ids is
// "".
func New(c *broker.Connection, interview, study string) *Erasure {
	return &Erasure{conn: c, interview: interview, study: study, eraser: c.Eraser()}
}

// Settle calls the function Settle for what this erasure and earlier ones have
// erased.
func (e *Erasure) Settle(ctx context.Context, out io.Writer) error {
	return Settle(ctx, e.conn, out, e.overwritten)
}

// A Match is a stored message that holds something of the interview.
type Match struct {
	subscribe.Message // without its data
	kind              schema.Kind
	// later is the subject in the event stream under which a later schema would
	// store a quarantined webhook; "" if the webhook does not name its type and ids.
	later string
}

// Find looks through the three streams. It returns the events first, so that
// they are erased first: a consumer that dead-letters an event looks for the
// event's tombstone after it has stored the dead letter.
//
// The events are read before the others, for their ids, and once more after
// them: a requeue stores an event before it deletes the quarantined webhook, so
// one of the two exists at any time, and in the end the event does.
func (e *Erasure) Find(ctx context.Context) ([]Match, error) {
	e.ids, e.overwritten = make(map[string]bool), make(map[schema.Kind][]uint64)
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
	return slices.Concat(events, quarantined, dead), err
}

func (e *Erasure) findEvents(ctx context.Context) ([]Match, error) {
	e.tombstones = 0
	return e.find(ctx, subscribe.Selection{Kind: schema.KindEvent, Subject: e.filter().Subject("*"), HeadersOnly: true})
}

// find looks through one stream, and notes what was overwritten there.
func (e *Erasure) find(ctx context.Context, selection subscribe.Selection) (found []Match, err error) {
	kind, last := selection.Kind, uint64(0)
	for m, err := range e.conn.Source.Range(ctx, selection) {
		if err != nil {
			return nil, err
		}
		if match, ok := e.inspect(kind, m); ok {
			match.Data = nil
			found = append(found, match)
		}
		e.overwritten[kind] = append(e.overwritten[kind], publish.ErasedCopies(m.Header)...)
		for missing := last + 1; kind != schema.KindEvent && last > 0 && missing < m.Sequence; missing++ {
			e.overwritten[kind] = append(e.overwritten[kind], missing)
		}
		last = m.Sequence
	}
	return found, nil
}

// inspect reports whether a message holds something of the interview.
func (e *Erasure) inspect(kind schema.Kind, m subscribe.Message) (t Match, ok bool) {
	t = Match{Message: m, kind: kind}
	switch {
	case kind == schema.KindEvent:
		e.ids[m.ID] = true
		if m.Erased() {
			e.tombstones++
		}
		return t, !m.Erased()
	case m.Erased(), schema.RequeuedLetter(m.Header) > 0: // which has no effect once the dead letter is erased
		return t, false
	case kind == schema.KindQuarantine:
		s, ok := schema.GuessSubject(m.ID, m.Data)
		switch {
		case ok && e.owns(s):
			s.Prefix, _, _ = strings.Cut(m.Subject, ".")
			s.Prefix = strings.TrimSuffix(s.Prefix, schema.KindQuarantine.Prefix(""))
			t.later = s.String()
		case ok && e.study != "":
			return t, false // of an interview: its study is not the reason to erase it
		}
		return t, e.ids[m.ID] || e.mentioned(m)
	default:
		// The header of a dead letter names its interview, unless it was not an event.
		if s, err := schema.ParseSubject(m.Header.Get(schema.HeaderDeadSubject)); err == nil {
			return t, e.owns(s)
		}
		return t, e.ids[m.ID] || e.mentioned(m)
	}
}

// String names what is erased, for messages.
func (e *Erasure) String() string {
	if e.study != "" {
		return "study " + e.study
	}
	return "interview " + e.interview
}

// filter selects the events to erase.
func (e *Erasure) filter() schema.Filter {
	return schema.Filter{StudyID: e.study, InterviewID: e.interview, NoInterview: e.study != ""}
}

// owns reports whether filter selects the event with a subject.
func (e *Erasure) owns(s schema.Subject) bool {
	return s.InterviewID == e.interview && (e.study == "" || s.StudyID == e.study)
}

func (e *Erasure) mentioned(m subscribe.Message) bool {
	for _, values := range m.Header {
		for _, value := range values {
			if mentions([]byte(value), e.interview+e.study) {
				return true
			}
		}
	}
	return mentions(m.Data, e.interview+e.study)
}

// ErasedBefore describes what earlier erasures have done.
func (e *Erasure) ErasedBefore() string {
	if e.tombstones == 0 {
		return ""
	}
	return fmt.Sprintf(" (erased before: %s)", terminal.Plural(e.tombstones, "event", "events"))
}

// PrintNothing writes to w that nothing was found, and what the reason may be.
func (e *Erasure) PrintNothing(ctx context.Context, w io.Writer) {
	fmt.Fprintf(w, "nothing is stored of %s%s\n", e, e.ErasedBefore())
	if e.tombstones == 0 {
		fmt.Fprintln(w, cmp.Or(e.conn.OtherCase(ctx, e.filter()), broker.CaseSensitive))
	}
}

// Print writes a table of what was found to w.
func (e *Erasure) Print(w io.Writer, found []Match) error {
	table := terminal.NewTable(w)
	for _, t := range found {
		fmt.Fprintf(table, "  %s\t%d\t%s\t%s\t%s\n", t.kind.Stream(e.conn.Settings.Stream), t.Sequence, t.Time.Format(time.RFC3339), t.ID, terminal.Bytes(t.Size))
	}
	return table.Flush()
}

// passes bounds how often Run erases the messages that Find returns: some may have
// been stored, or dead-lettered, during the pass before.
const passes = 3

// Run erases the matches, and then those that Find still finds, until it finds none.
// It returns how many messages were erased, even if it returns an error.
func (e *Erasure) Run(ctx context.Context, found []Match) (erased int, err error) {
	for pass := 0; len(found) > 0; pass++ {
		if pass == passes {
			return erased, fmt.Errorf("%s keeps coming: %s after %d passes; run it again", e, terminal.Plural(len(found), "message", "messages"), passes)
		}
		var failed []error
		for _, t := range found {
			if err := e.erase(ctx, t); err != nil {
				failed = append(failed, err)
				continue
			}
			erased++
		}
		if len(failed) > 0 {
			return erased, fmt.Errorf("%d of %d messages may be left: %w", len(failed), len(found), errors.Join(failed...))
		}
		if found, err = e.Find(ctx); err != nil {
			return erased, fmt.Errorf("looking whether something is left: %w", err)
		}
	}
	return erased, nil
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
