package schema

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sequences is a set of sequences of a stream. The zero value is the empty set.
// It is not safe for concurrent use.
type Sequences struct {
	ranges []sequenceRange // ascending; they neither overlap nor touch
}

type sequenceRange struct{ first, last uint64 }

// SequenceRange returns the set of the sequences from first to last, both
// included; it is empty if last is below first.
func SequenceRange(first, last uint64) Sequences {
	var s Sequences
	s.Add(first, last)
	return s
}

// SequencesOf returns the set of the sequences in a list. It omits 0, which no
// message has: nats-server lists it among the deleted ones of an empty stream.
func SequencesOf(list []uint64) Sequences {
	var s Sequences
	for _, sequence := range slices.Sorted(slices.Values(list)) {
		s.Add(max(sequence, 1), sequence)
	}
	return s
}

// Add adds the sequences from first to last, both included; it adds none if
// last is below first. It is fast at the end of the set.
func (s *Sequences) Add(first, last uint64) {
	if last < first {
		return
	}
	var end *sequenceRange
	if n := len(s.ranges); n > 0 {
		end = &s.ranges[n-1]
	}
	switch {
	case end == nil || first > end.last && first-1 > end.last:
		s.ranges = append(s.ranges, sequenceRange{first, last})
	case first >= end.first:
		end.last = max(end.last, last)
	default:
		*s = s.Union(Sequences{[]sequenceRange{{first, last}}})
	}
}

// Union returns the sequences that are in s or in t.
func (s Sequences) Union(t Sequences) Sequences {
	all := slices.Concat(s.ranges, t.ranges)
	slices.SortFunc(all, func(a, b sequenceRange) int { return cmp.Compare(a.first, b.first) })
	var union Sequences
	for _, r := range all {
		union.Add(r.first, r.last)
	}
	return union
}

// Minus returns the sequences of s that are not in t.
func (s Sequences) Minus(t Sequences) Sequences {
	var rest Sequences
	i := 0
	for _, r := range s.ranges {
		for i < len(t.ranges) && t.ranges[i].last < r.first {
			i++
		}
		for k := i; k < len(t.ranges) && t.ranges[k].first <= r.last; k++ {
			if t.ranges[k].first > r.first {
				rest.Add(r.first, t.ranges[k].first-1)
			}
			r.first = t.ranges[k].last + 1
		}
		rest.Add(r.first, r.last)
	}
	return rest
}

// Intersect returns the sequences that are in s and in t.
func (s Sequences) Intersect(t Sequences) Sequences { return s.Minus(s.Minus(t)) }

// Has reports whether a sequence is in s.
func (s Sequences) Has(sequence uint64) bool { return s.Within(sequence, sequence).Len() > 0 }

// Within returns the sequences of s from first to last, both included.
func (s Sequences) Within(first, last uint64) Sequences {
	var part Sequences
	for _, r := range s.ranges {
		part.Add(max(r.first, first), min(r.last, last))
	}
	return part
}

// Len returns the number of sequences in the set.
func (s Sequences) Len() uint64 {
	var n uint64
	for _, r := range s.ranges {
		n += r.last - r.first + 1
	}
	return n
}

// First returns the lowest sequence, or 0 if there is none.
func (s Sequences) First() uint64 {
	if len(s.ranges) == 0 {
		return 0
	}
	return s.ranges[0].first
}

// shownRanges bounds the ranges that String shows.
const shownRanges = 20

// String returns the set for people, such as "5, 9-12": its first 20 ranges, and
// the number of the others.
func (s Sequences) String() string {
	shown := s.ranges[:min(len(s.ranges), shownRanges)]
	text := Sequences{shown}.join(", ")
	if more := len(s.ranges) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more ranges", more)
	}
	return text
}

func (s Sequences) join(separator string) string {
	parts := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		if parts[i] = strconv.FormatUint(r.first, 10); r.last > r.first {
			parts[i] += "-" + strconv.FormatUint(r.last, 10)
		}
	}
	return strings.Join(parts, separator)
}

// MarshalText implements [encoding.TextMarshaler]. It writes the whole set.
func (s Sequences) MarshalText() ([]byte, error) { return []byte(s.join(",")), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Sequences) UnmarshalText(text []byte) error {
	*s = Sequences{}
	if len(text) == 0 {
		return nil
	}
	for part := range strings.SplitSeq(string(text), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 64)
		last, errLast := strconv.ParseUint(to, 10, 64)
		if err = cmp.Or(err, errLast); err != nil {
			return fmt.Errorf("sequences: %w", err)
		}
		s.Add(first, last)
	}
	return nil
}
