package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// depthTimeout bounds one look at a stream's depth. What it did not get to
	// is looked at the next time.
	depthTimeout = 2 * time.Second
	// depthBatch is how many headers are asked for in one request.
	depthBatch = 1000
	// headerWait is how long a request waits for headers that are not there.
	headerWait = time.Second
)

// A depth counts what a stream keeps for a person to look at: its messages
// without the tombstones among them. It remembers where those are, so that it
// reads the headers of each message once.
type depth struct {
	count atomic.Int64

	// Of the one goroutine that looks.
	created    time.Time // of the stream
	state      jetstream.StreamState
	read       uint64   // the last sequence whose header was read
	tombstones []uint64 // sequences, ascending
}

// Depth returns how many bodies the quarantine keeps, or how many dead
// letters there are; tombstones do not count. It is at most a few seconds old.
// While it has not read all headers, after the start, it may say too many.
func (p *Publisher) Depth(kind schema.Kind) int64 { return p.depths[kind].count.Load() }

// watchDepths keeps the depths up to date until ctx ends. It has a goroutine
// of its own: reading what is in a large stream must not hold up Ready.
func (p *Publisher) watchDepths(ctx context.Context) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		for _, kind := range [...]schema.Kind{schema.KindQuarantine, schema.KindDead} {
			if err := p.depths[kind].look(ctx, p.js, kind.Stream(p.cfg.Stream), &p.metrics.streams[kind]); err != nil && ctx.Err() == nil {
				p.cfg.Logger.Debug("depth is not up to date", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look brings the depth up to date, if the stream has changed. The stream
// goes into seen.
func (d *depth) look(ctx context.Context, js jetstream.JetStream, name string, seen *atomic.Pointer[jetstream.StreamInfo]) error {
	ctx, cancel := context.WithTimeout(ctx, depthTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has given up on anything yet
		d.count.Store(0)
		seen.Store(nil)
		return nil
	}
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	seen.Store(info)
	if !info.Created.Equal(d.created) {
		d.created, d.read, d.tombstones = info.Created, 0, nil
	}
	if d.state = info.State; d.state.LastSeq > d.read {
		err = readHeaders(ctx, stream, d.read+1, func(sequence uint64, header nats.Header) bool {
			if d.read = sequence; schema.IsTombstone(header) {
				d.tombstones = append(d.tombstones, sequence)
			}
			return true
		})
		if err == nil {
			d.read = max(d.read, d.state.LastSeq) // what is missing up to there was deleted
		}
	}
	gone, _ := slices.BinarySearch(d.tombstones, d.state.FirstSeq)
	d.tombstones = d.tombstones[gone:]
	d.count.Store(max(0, int64(d.state.Msgs)-int64(len(d.tombstones))))
	return err
}

// readHeaders reads the headers of a stream's messages in order, from a
// sequence to the stream's end or until each returns false. It skips messages
// that the stream cannot return.
func readHeaders(ctx context.Context, stream jetstream.Stream, from uint64, each func(sequence uint64, header nats.Header) bool) error {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second, // should deleting it fail
	})
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
		batch, err := consumer.Fetch(int(min(pending, depthBatch)), jetstream.FetchMaxWait(headerWait))
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
				return errors.New("a header was lost on the way; reading it again")
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
		case !wanted, delivered == before: // what is pending cannot be returned, or was deleted
			return nil
		}
	}
	return nil
}
