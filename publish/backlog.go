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
	// backlogTimeout bounds an update of a backlog. The next update continues where
	// it has stopped.
	backlogTimeout = 2 * time.Second
	// backlogDeniedWait is the time until an update is retried that the broker has
	// denied. The broker logs every denial.
	backlogDeniedWait = time.Minute
)

// A backlog counts the messages of a stream that wait for an operator, which are
// those that are not settled (see [schema.IsSettled]). It remembers the sequences of
// the settled ones, so that it reads each header once.
type backlog struct {
	count atomic.Int64 // -1 until all headers have been read

	// The goroutine of watchBacklogs owns the following.
	created time.Time // of the stream
	state   jetstream.StreamState
	read    uint64    // last sequence whose header was read
	settled []uint64  // sequences, ascending
	retryAt time.Time // after a denial
}

// watchBacklogs updates the backlogs until ctx is done. It has its own goroutine,
// because reading a large stream must not delay Ready.
func (p *Publisher) watchBacklogs(ctx context.Context) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		for _, kind := range [...]schema.Kind{schema.KindQuarantine, schema.KindDead} {
			b, name := &p.metrics.backlogs[kind], kind.Stream(p.cfg.Stream)
			if time.Now().Before(b.retryAt) {
				continue
			}
			before := p.nc.LastError()
			err := b.update(ctx, p.js, name, &p.metrics.streams[kind])
			if err == nil && kind == schema.KindDead {
				err = p.limitDeadLetters(ctx)
			}
			if err == nil || ctx.Err() != nil {
				continue
			}
			p.cfg.Logger.Debug("backlog was not updated", "stream", name, "error", err)
			// The broker reports a denial asynchronously and does not answer the request.
			if last := p.nc.LastError(); last != before && errors.Is(last, nats.ErrPermissionViolation) {
				b.retryAt = time.Now().Add(backlogDeniedWait)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// limitDeadLetters shortens the maximum age of dead letters, which contain whole
// interviews, to that of the events. It may be longer because the consumer that
// created the stream cannot update it, or because the events' age was set later.
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
	ctx, cancel := context.WithTimeout(ctx, backlogTimeout)
	defer cancel()
	if _, err := p.js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("setting its maximum age (nats stream edit %s --max-age %s): %w", config.Name, limit, err)
	}
	p.cfg.Logger.Warn("shortened the maximum age of dead letters to that of events", "stream", config.Name, "from", before, "to", limit)
	return nil
}

// update updates the backlog and stores the stream's info in seen.
func (b *backlog) update(ctx context.Context, js jetstream.JetStream, name string, seen *atomic.Pointer[jetstream.StreamInfo]) error {
	ctx, cancel := context.WithTimeout(ctx, backlogTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has dead-lettered anything yet
		b.count.Store(0)
		seen.Store(nil)
		return nil
	}
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	seen.Store(info)
	if !info.Created.Equal(b.created) {
		b.created, b.read, b.settled = info.Created, 0, nil
	}
	if b.state = info.State; b.state.LastSeq > b.read {
		err = readHeaders(ctx, stream, b.read+1, func(sequence uint64, header nats.Header) bool {
			if b.read = sequence; schema.IsSettled(header) {
				b.settled = append(b.settled, sequence)
			}
			return true
		})
		if err == nil {
			b.read = max(b.read, b.state.LastSeq) // the missing ones were deleted
		}
	}
	if err != nil {
		return err
	}
	gone, _ := slices.BinarySearch(b.settled, b.state.FirstSeq)
	b.settled = b.settled[gone:]
	b.count.Store(max(0, int64(b.state.Msgs)-int64(len(b.settled))))
	return nil
}
