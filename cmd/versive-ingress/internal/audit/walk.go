package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Problem is what is wrong with messages of a stream.
type Problem string

const (
	Missing      Problem = "missing"      // the stream had them; they were neither erased nor expired
	Unreadable   Problem = "unreadable"   // the stream counts them but cannot return them
	Foreign      Problem = "foreign"      // another program has stored them
	Inconsistent Problem = "inconsistent" // subject, headers and data do not agree
	Repeated     Problem = "repeated"     // an earlier message has the same id
	NotErased    Problem = "not_erased"   // a tombstone states that they were erased
)

var problemTexts = map[Problem]string{
	Missing:      publish.Removed.String(),
	Unreadable:   publish.Unreadable.String(),
	Foreign:      "has messages that no ingress and no consumer has stored",
	Inconsistent: "has messages whose subject, headers and data do not agree",
	Repeated:     "has messages with the id of an earlier one",
	NotErased:    "has messages that were to be erased; run erase again or, for the quarantine, requeue or discard",
}

// String returns a predicate that describes the problem of a stream.
func (p Problem) String() string { return problemTexts[p] }

// isLoss reports whether messages are lost, so that an operator can acknowledge it.
func (p Problem) isLoss() bool { return p == Missing || p == Unreadable }

// A Stream is what one stream contains.
type Stream struct {
	Name     string     `json:"stream"`
	Messages uint64     `json:"messages"` // that can be read, tombstones included
	Erased   uint64     `json:"erased"`   // messages that tombstones stand for
	Deleted  uint64     `json:"deleted"`  // without a tombstone: dead letters that were requeued or discarded, and probes of doctor
	Findings []*Finding `json:"findings"`

	found publish.Found
}

// A Finding is one problem of a stream.
type Finding struct {
	Problem      Problem          `json:"problem"`
	Acknowledged bool             `json:"acknowledged"` // by an earlier audit
	Messages     uint64           `json:"messages"`     // number of the sequences
	Sequences    schema.Sequences `json:"sequences"`
	Examples     []Example        `json:"examples,omitzero"`
}

// An Example is one of the messages of a finding. It has nothing of the content.
type Example struct {
	Sequence uint64 `json:"sequence"`
	Detail   string `json:"detail"`
}

// maxExamples bounds the examples of a finding.
const maxExamples = 20

// add adds a finding unless there are no sequences.
func (s *Stream) add(p Problem, acknowledged bool, sequences schema.Sequences, examples []Example) {
	if n := sequences.Len(); n > 0 {
		s.Findings = append(s.Findings, &Finding{p, acknowledged, n, sequences, examples})
	}
}

// A walk reads one stream. It keeps 16 bytes for each message and each tombstone.
type walk struct {
	conn     *broker.Connection
	kind     schema.Kind
	stream   jetstream.Stream
	progress *terminal.Progress

	next       uint64           // the sequence at which to continue
	present    schema.Sequences // what was read
	unreadable schema.Sequences
	copies     []uint64 // that tombstones stand for
	tombstones uint64
	ids        []hashedID // of what is not a tombstone
	requeued   []uint64   // dead letters, which are deleted before their requests
	seed       maphash.Seed
	odd        map[Problem]*Finding // Foreign and Inconsistent
}

// A hashedID stands for the id of a message: two of a million ids have the same hash by
// chance in one of 37 million audits.
type hashedID struct{ hash, sequence uint64 }

func newWalk(c *broker.Connection, kind schema.Kind, stream jetstream.Stream, progress *terminal.Progress) *walk {
	return &walk{
		conn: c, kind: kind, stream: stream, progress: progress, next: 1,
		ids:  make([]hashedID, 0, stream.CachedInfo().State.Msgs),
		seed: maphash.MakeSeed(),
		odd:  map[Problem]*Finding{Foreign: {}, Inconsistent: {}},
	}
}

// run reads the stream and returns what it contains. Erasures may run meanwhile: the
// tombstones of what the state lists as deleted are stored before the state is requested,
// so they are read at the latest after it.
func (w *walk) run(ctx context.Context, record publish.Record) (*Stream, error) {
	if err := w.read(ctx); err != nil {
		return nil, err
	}
	end, earlier := w.next, len(w.copies) // later copies may be about to be deleted
	info, err := publish.ReadState(ctx, w.stream, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, err
	}
	if err := w.read(ctx); err != nil {
		return nil, err
	}
	state, name, erased := info.State, info.Config.Name, schema.SequencesOf(w.copies)
	deleted := schema.SequencesOf(state.Deleted)
	present := w.present.Minus(deleted)
	maxAge := info.Config.MaxAge
	if w.conn.Settings.ForwardURL != "" { // the ingress removes what is older, not the broker
		maxAge = w.conn.Settings.MaxAge
	}
	// The broker may notice damage when a block is read, and then no longer count the messages
	// as pending before it lists them as deleted.
	unreadable := w.unreadable.Union(schema.SequenceRange(max(state.FirstSeq, 1), min(state.LastSeq+1, end)-1).Minus(present)).Minus(deleted)
	missing := record.Missing(w.kind, info, maxAge)
	if w.kind == schema.KindEvent {
		missing = missing.Union(deleted)
	} else if state.Lost != nil { // deleting other messages is normal
		missing = missing.Union(schema.SequencesOf(state.Lost.Msgs).Minus(w.present))
	}
	missing = missing.Minus(erased)

	s := &Stream{
		Name: name, Messages: uint64(len(w.ids)) + w.tombstones, Erased: erased.Minus(present).Len(),
		Deleted:  deleted.Minus(erased).Minus(missing).Len(),
		Findings: []*Finding{},
		found:    record.Found(info),
	}
	s.found.Missing, s.found.Unreadable = missing, unreadable
	rest := s.found.Minus(record.Acknowledged(name))
	s.add(Missing, false, rest.Missing, nil)
	s.add(Missing, true, s.found.Missing.Minus(rest.Missing), nil)
	s.add(Unreadable, false, rest.Unreadable, nil)
	s.add(Unreadable, true, s.found.Unreadable.Minus(rest.Unreadable), nil)
	for _, p := range [...]Problem{Foreign, Inconsistent} {
		s.add(p, false, w.odd[p].Sequences, w.odd[p].Examples)
	}
	repeated := w.repeated(present.Within(1, end-1).Minus(schema.SequencesOf(w.requeued)))
	s.add(Repeated, false, repeated.Sequences, repeated.Examples)
	s.add(NotErased, false, present.Intersect(schema.SequencesOf(w.copies[:earlier])), nil)
	return s, nil
}

// read reads on to the end of the stream.
func (w *walk) read(ctx context.Context) error {
	for m, err := range w.conn.Source.Range(ctx, subscribe.Selection{Kind: w.kind, Subject: broker.AnySubject, First: w.next}) {
		if u, ok := errors.AsType[*subscribe.UnreadableError](err); ok {
			w.unreadable = w.unreadable.Union(u.Sequences)
			return nil
		}
		if err != nil {
			return err
		}
		w.progress.Add()
		w.next = m.Sequence + 1
		w.present.Add(m.Sequence, m.Sequence)
		w.inspect(m)
	}
	return nil
}

func (w *walk) inspect(m subscribe.Message) {
	err := schema.Verify(w.kind, m.Subject, m.Header, m.Data)
	if schema.IsSettled(m.Header) {
		w.tombstones++
		w.copies = append(w.copies, publish.ErasedCopies(m.Header)...)
	} else {
		w.ids = append(w.ids, hashedID{w.hash(m, err == nil), m.Sequence})
	}
	if letter := schema.RequeuedLetter(m.Header); letter > 0 && w.kind == schema.KindDead {
		w.requeued = append(w.requeued, letter)
	}
	switch {
	case errors.Is(err, schema.ErrForeign):
		w.odd[Foreign].include(m.Sequence, "")
	case err != nil:
		w.odd[Inconsistent].include(m.Sequence, strings.ReplaceAll(err.Error(), "\n", " "))
	}
}

// hash returns the hash of the id that must be unique in the stream: the svix-id or, for a
// dead letter, also the consumer and the sequence of the event. The id of a message that
// is not as it should be is its sequence.
func (w *walk) hash(m subscribe.Message, sound bool) uint64 {
	id := m.ID
	switch {
	case !sound:
		id = fmt.Sprint("\n", m.Sequence)
	case w.kind == schema.KindDead:
		id = m.Subject + "\n" + m.Header.Get(schema.HeaderDeadSequence) + m.Header.Get(schema.HeaderRequeue)
	}
	return maphash.String(w.seed, id)
}

func (f *Finding) include(sequence uint64, detail string) {
	f.Sequences.Add(sequence, sequence)
	if detail != "" && len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, Example{sequence, detail})
	}
}

// repeated returns the messages that have the id of an earlier one, both with a sequence in
// among. It sorts the ids.
func (w *walk) repeated(among schema.Sequences) Finding {
	slices.SortFunc(w.ids, func(a, b hashedID) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.sequence, b.sequence))
	})
	var first hashedID
	var again []hashedID // with the sequence of the first instead of the hash
	for i, id := range w.ids {
		shared := i > 0 && w.ids[i-1].hash == id.hash || i+1 < len(w.ids) && w.ids[i+1].hash == id.hash
		switch {
		case !shared || !among.Has(id.sequence):
		case first.sequence > 0 && first.hash == id.hash:
			again = append(again, hashedID{first.sequence, id.sequence})
		default:
			first = id
		}
	}
	slices.SortFunc(again, func(a, b hashedID) int { return cmp.Compare(a.sequence, b.sequence) })
	var f Finding
	for _, id := range again {
		f.include(id.sequence, fmt.Sprintf("has the id of message %d", id.hash))
	}
	return f
}
