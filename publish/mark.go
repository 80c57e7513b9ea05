package publish

import (
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A mark is the high-water mark of a stream: the messages that it had at the last
// check and must not lose.
type mark struct {
	Created   time.Time `json:"created"` // the stream
	First     uint64    `json:"first"`
	FirstTime time.Time `json:"first_time"` // when the first message was stored
	// Last is the highest sequence that was acknowledged or is otherwise known to be
	// durable. The stream's last sequence need not be: if the fsync of its message
	// fails, the next start drops the message, which is no loss.
	Last uint64 `json:"last"`
	// MaxAge is the maximum age of messages at the last check; 0 is none.
	MaxAge time.Duration `json:"max_age,omitzero"`
	// Ends are earlier last messages of the stream. What was stored after one of them is
	// younger than it.
	Ends []end `json:"ends,omitempty"`
	// Deleted are the sequences after First without a message.
	Deleted schema.Sequences `json:"deleted"`
	// Suspects are deleted sequences for which no tombstone has been searched yet.
	Suspects schema.Sequences `json:"suspects"`
	// Unreadable are reported sequences that the stream counts but cannot return.
	Unreadable schema.Sequences `json:"unreadable"`

	Lost        uint64 `json:"lost"`      // messages that were reported, across recreations
	Recreations uint64 `json:"recreated"` // how often the stream was deleted
	WentBack    uint64 `json:"went_back"` // how often it ended before an acknowledged message; since its creation
}

// An end is the last message that a stream had at a check.
type end struct {
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"` // when it was stored
}

// endsPerAge is how many ends are kept for the maximum age of a stream.
const endsPerAge = 24

// An observation is the state of a stream at a check.
type observation struct {
	kind  schema.Kind
	name  string
	info  *jetstream.StreamInfo // zero for a stream that was deleted and is not recreated
	acked uint64                // highest sequence acknowledged before info was requested
	// reused are acknowledged sequences that are lost and may have been reused.
	reused schema.Sequences
	quiet  bool          // nothing is being stored, so info.State.LastSeq is durable
	maxAge time.Duration // at which messages are removed; 0 is never
}

// needsDetails reports whether the list of deleted sequences is needed to find
// losses, because it differs from that of the mark.
func (m mark) needsDetails(seen observation) bool {
	s := seen.info.State
	if !m.Created.Equal(seen.info.Created) {
		return s.NumDeleted > 0
	}
	return uint64(s.NumDeleted) != m.Deleted.Within(s.FirstSeq, s.LastSeq).Len() ||
		seen.kind != schema.KindEvent && s.FirstSeq > m.First
}

// compare updates the mark from an observation and returns the lost sequences by
// problem. Missing messages of the event stream become suspects first; see
// explainDeletions.
func (m *mark) compare(seen observation) map[Problem]schema.Sequences {
	state := seen.info.State
	lost := make(map[Problem]schema.Sequences)
	missing := m.Deleted.Union(m.Unreadable) // known to be missing

	switch high := max(m.Last, seen.acked); {
	case m.Created.IsZero(): // first observation
		m.start(seen)
		return nil
	case !m.Created.Equal(seen.info.Created) && !m.isRestored(seen.info):
		lost[Recreated] = m.held()
		m.start(seen)
		return lost
	case state.LastSeq < high, seen.reused.Len() > 0:
		tail := schema.SequenceRange(state.LastSeq+1, high).Union(seen.reused)
		m.Last = tail.First() - 1
		m.WentBack++
		if tail = tail.Within(m.First, high).Minus(missing); tail.Len() > 0 {
			lost[WentBack] = tail
		}
		m.Suspects = m.Suspects.Within(1, m.Last)
		m.Unreadable = m.Unreadable.Within(1, m.Last)
	default:
		m.Last = high
	}

	m.Created = seen.info.Created
	var gone schema.Sequences
	if state.FirstSeq > m.First {
		// A message whose write failed leaves a gap too, and was not acknowledged.
		gone = schema.SequenceRange(max(m.First, m.expired(seen)+1), state.FirstSeq-1).Within(1, m.Last)
	}
	m.addEnd(seen)
	m.MaxAge = seen.maxAge
	m.Deleted = m.Deleted.Within(state.FirstSeq, state.LastSeq)
	if len(state.Deleted) == state.NumDeleted { // the state has the list
		m.Deleted = schema.SequencesOf(state.Deleted)
		gone = gone.Union(m.Deleted)
	}
	gone = gone.Minus(missing)
	if seen.kind == schema.KindEvent {
		m.Suspects = m.Suspects.Union(gone)
	} else if state.Lost != nil { // deleting messages from the other streams is normal
		if dropped := gone.Intersect(schema.SequencesOf(state.Lost.Msgs)); dropped.Len() > 0 {
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

// isRestored reports whether a stream with another creation time begins with the same
// message, so it was restored from a backup. What a backup does not have is missing at the end.
func (m *mark) isRestored(info *jetstream.StreamInfo) bool {
	return !info.Created.IsZero() && max(info.State.FirstSeq, 1) == max(m.First, 1) && info.State.FirstTime.Equal(m.FirstTime)
}

// held returns the sequences of the messages that the stream had at the last check.
func (m *mark) held() schema.Sequences {
	return schema.SequenceRange(max(m.First, 1), m.Last).Minus(m.Deleted.Union(m.Unreadable))
}

// found returns a Found without sequences for the stream. m may be nil.
func (m *mark) found() Found {
	if m == nil {
		return Found{}
	}
	return Found{Created: m.Created, WentBack: m.WentBack}
}

// start initializes the mark for a new stream.
func (m *mark) start(seen observation) {
	state := seen.info.State
	*m = mark{
		Created:     seen.info.Created,
		First:       state.FirstSeq,
		FirstTime:   state.FirstTime,
		MaxAge:      seen.maxAge,
		Deleted:     schema.SequencesOf(state.Deleted),
		Lost:        m.Lost,
		Recreations: m.Recreations,
	}
	if seen.quiet {
		m.Last = state.LastSeq
	}
}

// expired returns the highest sequence that may have reached the maximum age. Until the
// ends cover that age, they may all have, once the first message has. An age that was
// raised since the last check may have been reached before that.
func (m *mark) expired(seen observation) uint64 {
	age := seen.maxAge
	if age == 0 || m.MaxAge > 0 && m.MaxAge < age {
		age = m.MaxAge
	}
	oldest := brokerTime(seen.info).Add(-age)
	if age == 0 || m.FirstTime.After(oldest) {
		return 0
	}
	for _, e := range m.Ends {
		if e.Time.After(oldest) {
			return e.Sequence
		}
	}
	return seen.info.State.FirstSeq
}

// addEnd adds the last message of the stream to the ends, if it is enough later than the
// others, and removes those that have reached the maximum age.
func (m *mark) addEnd(seen observation) {
	state, oldest := seen.info.State, brokerTime(seen.info).Add(-seen.maxAge)
	m.Ends = slices.DeleteFunc(m.Ends, func(e end) bool { return !e.Time.After(oldest) })
	n := len(m.Ends)
	if seen.maxAge > 0 && state.Msgs > 0 && (n == 0 || state.LastTime.Sub(m.Ends[n-1].Time) >= seen.maxAge/endsPerAge) {
		m.Ends = append(m.Ends, end{state.LastSeq, state.LastTime})
	}
}

// brokerTime returns the time of info by the broker's clock.
func brokerTime(info *jetstream.StreamInfo) time.Time {
	if info.TimeStamp.IsZero() { // an old broker does not set it
		return time.Now()
	}
	return info.TimeStamp
}
