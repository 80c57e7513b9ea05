package subscribe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// UnreadableError ends a range that lacks messages: the stream counts them but
// cannot return them, because its store is damaged. A consumer skips them without
// an error. All other messages of the range were yielded before, except after a whole block
// that cannot be read, in a range whose Subject is not ">". In a range with a filter and an
// end, the messages may have other subjects, because theirs are not known.
type UnreadableError struct {
	Stream    string
	Sequences schema.Sequences
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the stream counts messages that it cannot return (%d, sequences %v): its store is damaged; run versive-ingress audit",
		e.Sequences.Len(), e.Sequences)
}

// verify returns an [*UnreadableError] if a bounded range, at its end, lacks
// messages. Messages that were deleted since they were delivered do not count.
func (c *cursor) verify(ctx context.Context, b bounds) error {
	everything := c.sel.Subject == ">"
	// The broker's count of what follows a sequence in the older half of the blocks is too high
	// by the messages before it that cannot be read.
	countable := !everything && c.sel.Last == 0 && c.sel.Until.IsZero()
	var stored uint64
	if countable {
		// Count the messages after the range first: a message that is stored meanwhile
		// makes the result too high, never too low.
		after, err := c.count(ctx, b.last+1, time.Time{})
		if err != nil {
			return err
		}
		if stored, err = c.count(ctx, b.first, time.Time{}); err != nil {
			return err
		}
		stored -= min(stored, after)
	}
	info, err := c.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err == nil && !isFromLeader(info) {
		err = errNotLeader
	}
	if err == nil {
		err = c.identify(info)
	}
	if err != nil {
		return err
	}
	state := info.State
	deleted := schema.SequencesOf(state.Deleted)
	if everything {
		lacking := schema.SequenceRange(max(b.first, state.FirstSeq), min(b.last, state.LastSeq)).Minus(b.delivered).Minus(deleted)
		if lacking.Len() > 0 {
			return &UnreadableError{c.source.stream(c.sel.Kind), lacking}
		}
		return nil
	}
	if countable && stored <= b.delivered.Within(state.FirstSeq, math.MaxUint64).Minus(deleted).Len() {
		return nil
	}
	// Which ones are unreadable can be seen only where everything is read.
	for _, err := range c.source.Range(ctx, Selection{Kind: c.sel.Kind, Subject: ">", First: b.first, Last: b.last, HeadersOnly: true}) {
		if unreadable, ok := errors.AsType[*UnreadableError](err); ok {
			return unreadable
		}
		if err != nil {
			return err
		}
	}
	return nil
}
