package forward

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// maxBatchBytes bounds the data of a batch, unless it is one message.
	maxBatchBytes = 2 << 20
	// batchWait is how long a batch waits for a message that the stream counts. It may be
	// one that the stream cannot return.
	batchWait = 20 * time.Millisecond
	// storeTimeout is how long the hub may take for a batch. It doubles with each attempt.
	storeTimeout, maxStoreTimeout = 5 * time.Second, 5 * time.Minute
	// erasures is how many tombstones of a batch are forwarded concurrently.
	erasures = 16

	anySubject = broker.AnySubject
)

// up forwards the messages of the edge's stream after the position until ctx ends.
func (s *stream) up(ctx context.Context, hub *publish.Publisher) error {
	if s.kind == schema.KindDead {
		source := subscribe.Source{JetStream: hub.JetStream(), Stream: s.cfg.Settings.Stream, Subject: s.cfg.Settings.Subject}
		if err := source.EnsureDeadLetters(ctx); err != nil {
			return err
		}
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	messages, failed := make(chan subscribe.Message), make(chan error, 1)
	go func() {
		failed <- s.read(reading, messages)
		close(messages)
	}()
	for batch := collect(messages, nil); len(batch) > 0; batch = collect(messages, batch[:0]) {
		last := upPosition{batch[len(batch)-1].Sequence, batch[len(batch)-1].Time}
		// A requeued dead letter is handled at the edge, where its consumer is.
		batch = slices.DeleteFunc(batch, func(m subscribe.Message) bool { return schema.RequeuedLetter(m.Header) > 0 })
		if err := s.deliver(ctx, hub, batch); err != nil {
			stop()
			<-failed
			return err
		}
		s.forwarded.Store(&last)
		clear(batch) // frees the data
	}
	return <-failed
}

// read sends the messages after the position until ctx ends.
func (s *stream) read(ctx context.Context, messages chan<- subscribe.Message) error {
	for m, err := range s.cfg.Edge.Source.Range(ctx, subscribe.Selection{Kind: s.kind, Subject: anySubject, First: s.forwarded.Load().sequence + 1, Follow: true}) {
		if err != nil {
			return err
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// collect waits for a message and appends it to the batch, with those that are ready as
// well. It returns none if there are no more.
func collect(messages <-chan subscribe.Message, batch []subscribe.Message) []subscribe.Message {
	size := 0
	m, ok := <-messages
	for ok {
		batch, size = append(batch, m), size+m.Size
		if m.Pending == 0 || len(batch) == publish.MaxStoreLen || size >= maxBatchBytes {
			break
		}
		select {
		case m, ok = <-messages:
		case <-time.After(batchWait):
			ok = false
		}
	}
	return batch
}

// deliver forwards a batch. It retries until the hub has confirmed all of it, or ctx or
// the connection to the hub ends.
func (s *stream) deliver(ctx context.Context, hub *publish.Publisher, batch []subscribe.Message) error {
	pause, timeout, logged := interval/8, storeTimeout, ""
	for len(batch) > 0 {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		n, err := s.attempt(attempt, hub, batch)
		cancel()
		if batch = batch[n:]; len(batch) == 0 {
			break
		}
		if n > 0 {
			pause, timeout = interval/8, storeTimeout
		}
		if err != nil {
			if err.Error() != logged && ctx.Err() == nil {
				logged = err.Error()
				s.log.Warn("hub has not confirmed a batch; retrying", "stream", s.name(), "messages", len(batch), "error", err)
			}
			sleep(ctx, pause)
			pause, timeout = min(2*pause, maxPause), min(2*timeout, maxStoreTimeout)
		}
		if ctx.Err() != nil || s.hub.Load() != hub {
			return fmt.Errorf("batch is not confirmed: %w", context.Cause(ctx))
		}
	}
	return nil
}

// attempt forwards the first messages of a batch: those before the first tombstone, or the
// tombstones before the first other message. It returns how many the hub has confirmed.
func (s *stream) attempt(ctx context.Context, hub *publish.Publisher, batch []subscribe.Message) (confirmed int, err error) {
	n, tombstones := 1, schema.IsSettled(batch[0].Header)
	for n < len(batch) && schema.IsSettled(batch[n].Header) == tombstones {
		n++
	}
	if tombstones {
		eraser := publish.Eraser{JetStream: hub.JetStream(), Stream: s.cfg.Settings.Stream, CLI: broker.CLI(s.cfg.Settings.Hub())}
		var group errgroup.Group
		group.SetLimit(erasures)
		for _, m := range batch[:n] {
			group.Go(func() error {
				_, err := eraser.EraseSubject(ctx, s.kind, schema.Stored(s.kind, m.Subject, nil, nil).Subject(s.cfg.Settings.Subject))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return 0, err
		}
		s.metrics.events.WithLabelValues(outcomeErasure).Add(float64(n))
		return n, nil
	}
	messages := make([]schema.Message, n)
	for i, m := range batch[:n] {
		messages[i] = schema.Stored(s.kind, m.Subject, m.Header, m.Data)
	}
	receipts, err := hub.Store(ctx, messages)
	for i, r := range receipts {
		s.there.Store(max(s.there.Load(), r.Sequence))
		outcome := outcomeStored
		if r.Duplicate {
			outcome = outcomeDuplicate
		}
		if r.Erased {
			outcome = outcomeErased
			if err := s.erase(ctx, batch[i].Subject); err != nil {
				return i, err
			}
		}
		s.metrics.events.WithLabelValues(outcome).Inc()
	}
	return len(receipts), err
}

// applyErasures erases at the edge what the hub's stream has tombstones for, after the
// position of down, until ctx ends. Tombstones are put where the edge has no copy as well,
// so that it rejects resends.
func (s *stream) applyErasures(ctx context.Context, hub *publish.Publisher) error {
	of, err := hub.JetStream().Stream(ctx, s.name())
	if err != nil {
		return err
	}
	position := *s.reached.Load()
	if position.created.IsZero() {
		position.created = of.CachedInfo().Created
	}
	source := subscribe.Source{JetStream: hub.JetStream(), Stream: s.cfg.Settings.Stream, Subject: s.cfg.Settings.Subject}
	for m, err := range source.Range(ctx, subscribe.Selection{Kind: s.kind, Subject: anySubject, First: position.sequence + 1, HeadersOnly: true, Follow: true}) {
		if err != nil {
			return err
		}
		if m.Sequence <= position.sequence { // another stream, from its first message; compare notices
			return errHubLoss
		}
		if _, foreign := schema.Tombstone(s.kind, m.Subject, 0); foreign == nil && schema.IsSettled(m.Header) {
			if err := s.erase(ctx, m.Subject); err != nil {
				return err
			}
		}
		position.sequence, position.time = m.Sequence, m.Time
		s.reached.Store(new(position))
	}
	return nil
}
