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
	// depthRetry is after how long a look that the broker has denied is repeated.
	// The broker logs each.
	depthRetry = time.Minute
	// depthBatch is how many headers are asked for in one request.
	depthBatch = 1000
	// headerWait is how long a request waits for headers that are not there.
	headerWait = time.Second
)

// A depth counts the messages of a stream that wait for an operator (see
// [schema.IsSettled]). It remembers where the others are, so that it reads the
// headers of each message once.
type depth struct {
	// count is -1 until all headers were read.
	count atomic.Int64

	// Of the one goroutine that looks.
	created time.Time // of the stream
	state   jetstream.StreamState
	read    uint64    // the last sequence whose header was read
	settled []uint64  // sequences, ascending
	retry   time.Time // when to look again after a denial
}

// watchDepths keeps the depths up to date until ctx ends. It has a goroutine
// of its own: reading what is in a large stream must not hold up Ready.
func (p *Publisher) watchDepths(ctx context.Context) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		for _, kind := range [...]schema.Kind{schema.KindQuarantine, schema.KindDead} {
			d, name := &p.metrics.depths[kind], kind.Stream(p.cfg.Stream)
			if time.Now().Before(d.retry) {
				continue
			}
			before := p.nc.LastError()
			err := d.look(ctx, p.js, name, &p.metrics.streams[kind])
			if err == nil && kind == schema.KindDead {
				err = p.limitDeadLetters(ctx)
			}
			if err == nil || ctx.Err() != nil {
				continue
			}
			p.cfg.Logger.Debug("stream was not looked at", "stream", name, "error", err)
			// The broker does not answer a request that it denies.
			if last := p.nc.LastError(); last != before && errors.Is(last, nats.ErrPermissionViolation) {
				d.retry = time.Now().Add(depthRetry)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// limitDeadLetters makes the stream of the dead letters, which hold whole
// interviews, keep nothing for longer than that of the events. The consumer that
// creates the stream may not change it, or the events' maximum age was set later.
func (p *Publisher) limitDeadLetters(ctx context.Context) error {
	events, dead := p.metrics.streams[schema.KindEvent].Load(), p.metrics.streams[schema.KindDead].Load()
	if events == nil || dead == nil {
		return nil
	}
	limit, config := events.Config.MaxAge, dead.Config
	if limit == 0 || config.MaxAge > 0 && config.MaxAge <= limit {
		return nil
	}
	if err := schema.KindDead.CheckOwner(p.cfg.Stream, config.Metadata); err != nil {
		return err
	}
	before := config.MaxAge
	config.MaxAge, config.Duplicates = limit, window(config.Duplicates, limit)
	ctx, cancel := context.WithTimeout(ctx, depthTimeout)
	defer cancel()
	if _, err := p.js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("setting its maximum age (nats stream edit %s --max-age %s): %w", config.Name, limit, err)
	}
	p.cfg.Logger.Warn("dead letters were kept for longer than events; their maximum age was shortened", "stream", config.Name, "from", before, "to", limit)
	return nil
}

// look brings the depth up to date, if the stream has changed. The stream goes
// into seen.
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
		d.created, d.read, d.settled = info.Created, 0, nil
	}
	if d.state = info.State; d.state.LastSeq > d.read {
		err = readHeaders(ctx, stream, d.read+1, func(sequence uint64, header nats.Header) bool {
			if d.read = sequence; schema.IsSettled(header) {
				d.settled = append(d.settled, sequence)
			}
			return true
		})
		if err == nil {
			d.read = max(d.read, d.state.LastSeq) // what is missing up to there was deleted
		}
	}
	if err != nil {
		return err
	}
	gone, _ := slices.BinarySearch(d.settled, d.state.FirstSeq)
	d.settled = d.settled[gone:]
	d.count.Store(max(0, int64(d.state.Msgs)-int64(len(d.settled))))
	return nil
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
