package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// headerBatch is how many headers are requested at a time.
	headerBatch = 1000
	// headerWait bounds the wait for a batch of headers.
	headerWait = time.Second
)

// startAt and startAtTime determine where readHeaders begins.
func startAt(sequence uint64) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: sequence}
}

func startAtTime(t time.Time) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t}
}

// readHeaders calls each for the headers of a stream's messages, in order, from a
// start to the end of the stream or until each returns false. It skips messages
// that the stream counts but cannot return.
func readHeaders(ctx context.Context, stream jetstream.Stream, start jetstream.ConsumerConfig, each func(sequence uint64, header nats.Header) bool) error {
	start.AckPolicy = jetstream.AckNonePolicy
	start.HeadersOnly, start.MemoryStorage, start.Replicas = true, true, 1
	start.InactiveThreshold = 10 * time.Second // in case deleting it fails
	consumer, err := stream.CreateConsumer(ctx, start)
	if err != nil {
		return fmt.Errorf("reading headers of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	}()

	pending := consumer.CachedInfo().NumPending
	for delivered := uint64(0); pending > 0; {
		before := delivered
		batch, err := consumer.Fetch(int(min(pending, headerBatch)), jetstream.FetchMaxWait(headerWait))
		if err != nil {
			return err
		}
		wanted := true
		for msg := range batch.Messages() {
			metadata, err := msg.Metadata()
			if err != nil {
				return err
			}
			if delivered++; metadata.Sequence.Consumer != delivered {
				return errors.New("a header was lost in transit; it will be read again")
			}
			pending = metadata.NumPending
			wanted = wanted && each(metadata.Sequence.Stream, msg.Headers())
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !wanted, delivered == before: // the pending messages are unreadable or were deleted
			return nil
		}
	}
	return nil
}
