package subscribe

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// UnreadableError ends a range that lacks messages: the stream counts them but
// cannot return them, because its store is damaged. A consumer skips them without
// an error. All other messages of the range were yielded before, unless no
// consumer gets past the damage.
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
// messages. It waits for a broker that is away.
func (b *bounded) verify(ctx context.Context) error {
	// A message that a consumer cannot read stays pending.
	if b.consumers == 1 && b.pending == 0 {
		return nil
	}
	for {
		err := b.recount(ctx)
		_, unreadable := errors.AsType[*UnreadableError](err)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil, unreadable, isClosed(err), errors.Is(err, errStreamRecreated), errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		wait(ctx)
	}
}

// recount compares what was delivered with what the stream counts. Messages that
// were deleted since they were delivered do not count.
func (b *bounded) recount(ctx context.Context) error {
	for range recounts {
		// What is after the range first: a message that is stored meanwhile makes
		// the count too high, never too low.
		after, err := b.count(ctx, b.last+1)
		if err != nil {
			return err
		}
		n, err := b.count(ctx, b.first)
		if err != nil {
			return err
		}
		n -= min(n, after)
		state, err := b.state(ctx)
		if err != nil {
			return err
		}
		deleted := schema.SequencesOf(state.Deleted)
		if n <= b.delivered.Within(state.FirstSeq, math.MaxUint64).Minus(deleted).Len() {
			return nil
		}
		if b.sel.Subject == ">" {
			lacking := schema.SequenceRange(max(b.first, state.FirstSeq), min(b.last, state.LastSeq)).Minus(b.delivered).Minus(deleted)
			if lacking.Len() == 0 {
				return nil
			}
			return &UnreadableError{b.source.stream(b.sel.Kind), lacking}
		}
	}
	// Which ones are unreadable can be seen only where everything is read.
	for _, err := range b.source.Range(ctx, Selection{Kind: b.sel.Kind, Subject: ">", First: b.first, Last: b.last, HeadersOnly: true}) {
		if unreadable, ok := errors.AsType[*UnreadableError](err); ok {
			return unreadable
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// count returns how many messages of the selection's subject are stored from a
// sequence on.
func (b *bounded) count(ctx context.Context, from uint64) (uint64, error) {
	config := b.config()
	config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartSequencePolicy, from, nil
	return b.countConsumer(ctx, config)
}

// countConsumer returns how many messages a consumer would deliver.
func (b *bounded) countConsumer(ctx context.Context, config jetstream.ConsumerConfig) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	consumer, err := b.stream.CreateConsumer(ctx, config)
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	_ = b.stream.DeleteConsumer(ctx, info.Name) // otherwise the broker removes it after inactiveThreshold
	return info.NumPending, nil
}

// state returns the state of the stream with its deleted sequences.
func (b *bounded) state(ctx context.Context) (jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := b.source.JetStream.Stream(ctx, b.source.stream(b.sel.Kind))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return info.State, b.identify(info)
}
