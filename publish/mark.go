package publish

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A mark is the high-water mark of a stream: what it had when it was last
// looked at, as far as that must still be there.
type mark struct {
	Created   time.Time `json:"created"` // the stream
	First     uint64    `json:"first"`
	FirstTime time.Time `json:"first_time"` // when the first message was stored
	// Last is the highest sequence that was acknowledged, or is known to be
	// durable for another reason. The stream's own last sequence is not: it may
	// be that of a message whose fsync fails, which the next start rightly drops.
	Last uint64 `json:"last"`
	// Deleted are the sequences from First on that have no message.
	Deleted schema.Sequences `json:"deleted"`
	// Suspects are deleted, and it is not known yet whether by an erasure.
	Suspects schema.Sequences `json:"suspects"`
	// Unreadable were reported: the stream counts them and cannot return them.
	Unreadable schema.Sequences `json:"unreadable"`

	Lost uint64 `json:"lost"`      // messages that were reported, over all streams of the name
	Anew uint64 `json:"recreated"` // how often it was deleted
}

// A sighting is a stream as it was seen, with what was known then.
type sighting struct {
	kind  schema.Kind
	info  *jetstream.StreamInfo
	acked uint64 // highest sequence that was acknowledged before the broker was asked
	quiet bool   // info.State.LastSeq is durable: nothing is being stored
	// detailed says that info lists the deleted sequences.
	detailed bool
}

// needsDetails reports whether the list of deleted sequences is needed to see
// what the stream has lost: it has others than before.
func (m *mark) needsDetails(kind schema.Kind, info *jetstream.StreamInfo) bool {
	s := info.State
	if m == nil || !m.Created.Equal(info.Created) {
		return s.NumDeleted > 0
	}
	return uint64(s.NumDeleted) != m.Deleted.Within(s.FirstSeq, s.LastSeq).Len() ||
		kind != schema.KindEvent && s.FirstSeq > m.First
}

// compare takes over what was seen and returns what is lost, by problem. Messages
// of the event stream that are gone become suspects first: see explain.
func (m *mark) compare(seen sighting) map[Problem]schema.Sequences {
	state := seen.info.State
	lost := make(map[Problem]schema.Sequences)
	missing := m.Deleted.Union(m.Unreadable) // and accounted for

	switch high := max(m.Last, seen.acked); {
	case m.Created.IsZero(): // never seen
		m.start(seen)
		return nil
	case !m.Created.Equal(seen.info.Created):
		lost[Recreated] = m.held()
		m.start(seen)
		return lost
	case state.LastSeq < high:
		if tail := schema.SequenceRange(max(state.LastSeq+1, m.First), high).Minus(missing); tail.Len() > 0 {
			lost[WentBack] = tail
		}
		m.Last = state.LastSeq
		m.Suspects = m.Suspects.Within(1, m.Last)
		m.Unreadable = m.Unreadable.Within(1, m.Last)
	default:
		m.Last = high
	}

	var gone schema.Sequences
	if state.FirstSeq > m.First && !m.aged(seen.info) {
		gone = schema.SequenceRange(max(m.First, 1), state.FirstSeq-1)
	}
	m.Deleted = m.Deleted.Within(state.FirstSeq, state.LastSeq)
	if seen.detailed {
		m.Deleted = schema.SequencesOf(state.Deleted)
		gone = gone.Union(m.Deleted)
	}
	gone = gone.Minus(missing)
	if seen.kind == schema.KindEvent {
		m.Suspects = m.Suspects.Union(gone)
	} else if state.Lost != nil { // from the others, messages are deleted every day
		if dropped := gone.Minus(gone.Minus(schema.SequencesOf(state.Lost.Msgs))); dropped.Len() > 0 {
			lost[Removed] = dropped
		}
	}
	m.Unreadable = m.Unreadable.Within(state.FirstSeq, state.LastSeq)
	m.First, m.FirstTime = state.FirstSeq, state.FirstTime
	if seen.quiet {
		m.Last = state.LastSeq
	}
	return lost
}

// held returns the sequences of the messages that the stream had.
func (m *mark) held() schema.Sequences {
	return schema.SequenceRange(max(m.First, 1), m.Last).Minus(m.Deleted.Union(m.Unreadable))
}

// start begins with a stream that was not seen before.
func (m *mark) start(seen sighting) {
	state := seen.info.State
	*m = mark{
		Created:   seen.info.Created,
		First:     state.FirstSeq,
		FirstTime: state.FirstTime,
		Deleted:   schema.SequencesOf(state.Deleted),
		Lost:      m.Lost,
		Anew:      m.Anew,
	}
	if seen.quiet {
		m.Last = state.LastSeq
	}
}

// aged reports whether the stream's first message was due to go by its age.
func (m *mark) aged(info *jetstream.StreamInfo) bool {
	now := info.TimeStamp // of the broker's clock
	if now.IsZero() {     // an old broker
		now = time.Now()
	}
	return info.Config.MaxAge > 0 && !now.Before(m.FirstTime.Add(info.Config.MaxAge))
}
