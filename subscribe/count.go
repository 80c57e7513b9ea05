package subscribe

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Count returns how many messages [Source.Range] would yield now, as the broker
// counts them: it reads none. Times must have risen with the sequences.
func (s Source) Count(ctx context.Context, sel Selection) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	name := s.stream(sel.Kind)
	stream, err := s.JetStream.Stream(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("counting messages of stream %s: %w", name, err)
	}
	from := func(sequence uint64, at time.Time) uint64 {
		if err != nil || sequence > stream.CachedInfo().State.LastSeq {
			return 0
		}
		var n uint64
		if n, err = s.pending(ctx, stream, sel, sequence, at); err != nil {
			err = fmt.Errorf("counting messages of stream %s: %w", name, err)
		}
		return n
	}
	// What is beyond the selection first: a message that is stored meanwhile
	// makes the count too high, never too low.
	var beyond uint64
	if sel.Last > 0 {
		beyond = from(sel.Last+1, time.Time{})
	}
	if !sel.Until.IsZero() {
		beyond = max(beyond, from(0, sel.Until))
	}
	n := from(max(sel.First, 1), time.Time{})
	if !sel.Since.IsZero() {
		n = min(n, from(0, sel.Since))
	}
	return n - min(n, beyond), err
}

// pending returns how many messages of the selection's subject are stored from
// a sequence, or a time, on.
func (s Source) pending(ctx context.Context, stream jetstream.Stream, sel Selection, sequence uint64, at time.Time) (uint64, error) {
	config := jetstream.ConsumerConfig{
		FilterSubject:     s.filterSubject(sel),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: apiTimeout,
		MemoryStorage:     true,
		Replicas:          1,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       sequence,
	}
	if sequence == 0 {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &at
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	_ = stream.DeleteConsumer(ctx, info.Name) // or it goes by itself
	return info.NumPending, nil
}
