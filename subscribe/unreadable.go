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
// cannot return them, because its store is damaged. A consumer passes over them
// without a sign. All others of the range were yielded before, unless the
// damage is such that no consumer passes it.
type UnreadableError struct {
	Stream    string
	Sequences schema.Sequences
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the stream counts messages that it cannot return (%d, sequences %v): its store is damaged; run versive-ingress audit",
		e.Sequences.Len(), e.Sequences)
}

// recounts is how often a count that does not agree is repeated: messages may
// have been stored between its two halves.
const recounts = 5

// verify returns an [*UnreadableError] if a bounded range, at its end, lacks
// messages. It lives through the loss of the broker, as the range does.
func (r *reader) verify(ctx context.Context) error {
	if r.complete || r.sel.Last < max(r.sel.First, 1) {
		return nil
	}
	for {
		err := r.recount(ctx)
		_, unreadable := errors.AsType[*UnreadableError](err)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil, unreadable, isClosed(err), errors.Is(err, errAnew), errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
}

// recount compares what was delivered with what the stream counts. Messages that
// were deleted since they were delivered do not count.
func (r *reader) recount(ctx context.Context) error {
	counted := r.sel
	counted.First, counted.Until = max(r.sel.First, 1), time.Time{}
	for range recounts {
		n, err := r.source.Count(ctx, counted)
		if err != nil {
			return err
		}
		state, err := r.state(ctx)
		if err != nil {
			return err
		}
		deleted := schema.SequencesOf(state.Deleted)
		if n <= r.delivered.Within(state.FirstSeq, math.MaxUint64).Minus(deleted).Len() {
			return nil
		}
		if r.sel.Subject == ">" && r.sel.Since.IsZero() {
			lacking := schema.SequenceRange(max(counted.First, state.FirstSeq), min(counted.Last, state.LastSeq)).Minus(r.delivered).Minus(deleted)
			if lacking.Len() == 0 {
				return nil
			}
			return &UnreadableError{r.source.stream(r.sel.Kind), lacking}
		}
	}
	// Which they are can be seen only where everything is read.
	for _, err := range r.source.Range(ctx, Selection{Kind: r.sel.Kind, Subject: ">", First: counted.First, Last: counted.Last, HeadersOnly: true}) {
		if unreadable, ok := errors.AsType[*UnreadableError](err); ok {
			return unreadable
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// state returns the state of the stream with its deleted sequences.
func (r *reader) state(ctx context.Context) (jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := r.source.JetStream.Stream(ctx, r.source.stream(r.sel.Kind))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	if !info.Created.Equal(r.created) {
		return jetstream.StreamState{}, errAnew
	}
	return info.State, nil
}

// isStuck reports whether the stream has a next message and cannot return it: it
// cannot read a whole block, and no consumer passes that.
func (r *reader) isStuck(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := r.stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(r.source.filterSubject(r.sel)))
	return errors.Is(err, jetstream.ErrMsgNotFound)
}
