package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// batchWait is how long a batch waits for a message that the stream counts. It may be
	// one that the stream cannot return.
	batchWait = 20 * time.Millisecond
	// erasures is how many tombstones are forwarded concurrently, and erasureTimeout how
	// long that may take: each needs several round trips.
	erasures, erasureTimeout = 16, 20 * time.Second

	// ProbeID begins the svix-ids of webhooks that doctor posts and discards. They are not
	// forwarded.
	ProbeID = "msg_doctor_"
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
		batch = slices.DeleteFunc(batch, s.staysHere)
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

// staysHere reports whether a message is not forwarded: a probe of doctor, which discards
// it, and the request to requeue a dead letter, which is handled where its consumer is.
func (s *stream) staysHere(m subscribe.Message) bool {
	return s.kind == schema.KindQuarantine && strings.HasPrefix(m.ID, ProbeID) || schema.RequeuedLetter(m.Header) > 0
}

// read sends the messages after the position until ctx ends.
func (s *stream) read(ctx context.Context, messages chan<- subscribe.Message) error {
	for m, err := range s.cfg.Edge.Source.Range(ctx, subscribe.Selection{Kind: s.kind, Subject: broker.AnySubject, First: s.forwarded.Load().sequence + 1, Follow: true}) {
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
	pause, logged := interval/8, lastError("")
	for len(batch) > 0 {
		n, err := 0, error(nil)
		if s.isCompared(hub) {
			n, err = s.attempt(ctx, hub, batch)
		} else {
			sleep(ctx, lookPause)
		}
		if batch = batch[n:]; len(batch) == 0 {
			break
		}
		if n > 0 {
			pause = interval / 8
		}
		if err != nil {
			if logged.isNew(ctx, err) {
				s.log.Warn("hub has not confirmed a batch; retrying", "stream", s.name(), "messages", len(batch), "error", err)
			}
			sleep(ctx, pause)
			pause = min(2*pause, maxPause)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("batch is not confirmed: %w", context.Cause(ctx))
		case s.hub.Load() != hub:
			return fmt.Errorf("batch is not confirmed: %w", errHubClosed)
		}
	}
	return nil
}

var errHubClosed = errors.New("the connection to the hub was closed")

// attempt forwards the first messages of a batch: those before the first tombstone, as many
// as the link passes soon, or the tombstones before the first other message. It returns how
// many the hub has confirmed.
func (s *stream) attempt(ctx context.Context, hub *publish.Publisher, batch []subscribe.Message) (confirmed int, err error) {
	n, size, tombstones := 0, 0, s.isTombstone(batch[0])
	for n < len(batch) && s.isTombstone(batch[n]) == tombstones && (n == 0 || size+batch[n].Size <= s.rate.batch()) {
		size += batch[n].Size
		n++
	}
	if tombstones {
		return s.forwardErasures(ctx, hub, batch[:min(n, erasures)])
	}
	ctx, cancel := context.WithTimeout(ctx, s.rate.timeout(size))
	defer cancel()
	messages := make([]schema.Message, n)
	for i, m := range batch[:n] {
		messages[i] = schema.Stored(s.kind, m.Subject, m.Header, m.Data)
	}
	began := time.Now()
	receipts, err := hub.Store(ctx, messages)
	s.rate.observe(size, time.Since(began), err)
	for i, r := range receipts {
		if r.Sequence > s.there.Load().sequence {
			s.there.Store(&confirmation{r.Sequence, idIn(batch[i].Subject)})
		}
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

// isTombstone reports whether a message is a tombstone of a subject of this stream. One
// that another program has published need not be.
func (s *stream) isTombstone(m subscribe.Message) bool {
	if !schema.IsSettled(m.Header) {
		return false
	}
	_, foreign := schema.Tombstone(s.kind, m.Subject, 0)
	return foreign == nil
}

// forwardErasures erases at the hub what tombstones name.
func (s *stream) forwardErasures(ctx context.Context, hub *publish.Publisher, tombstones []subscribe.Message) (confirmed int, err error) {
	ctx, cancel := context.WithTimeout(ctx, erasureTimeout)
	defer cancel()
	eraser := publish.Eraser{JetStream: hub.JetStream(), Stream: s.cfg.Settings.Stream, CLI: broker.CLI(s.cfg.Settings.Hub())}
	var group errgroup.Group
	for _, m := range tombstones {
		group.Go(func() error {
			_, err := eraser.EraseSubject(ctx, s.kind, schema.Stored(s.kind, m.Subject, nil, nil).Subject(s.cfg.Settings.Subject))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	s.metrics.events.WithLabelValues(outcomeErasure).Add(float64(len(tombstones)))
	return len(tombstones), nil
}

// applyErasures erases at the edge what the hub's stream has tombstones for, after the
// position of down, until ctx ends. Tombstones are put where the edge has no copy as well,
// so that it rejects resends.
func (s *stream) applyErasures(ctx context.Context, hub *publish.Publisher) error {
	hubStream, err := hub.JetStream().Stream(ctx, s.name())
	if err != nil {
		return err
	}
	position := *s.reached.Load()
	if position.created.IsZero() {
		position.created = hubStream.CachedInfo().Created
	}
	source := subscribe.Source{JetStream: hub.JetStream(), Stream: s.cfg.Settings.Stream, Subject: s.cfg.Settings.Subject}
	for m, err := range source.Range(ctx, subscribe.Selection{Kind: s.kind, Subject: broker.AnySubject, First: position.sequence + 1, HeadersOnly: true, Follow: true}) {
		if err != nil {
			return err
		}
		if m.Sequence <= position.sequence { // another stream, from its first message; compare notices
			return errHubLoss
		}
		if s.isTombstone(m) {
			if err := s.erase(ctx, m.Subject); err != nil {
				return err
			}
		}
		position.sequence, position.time = m.Sequence, m.Time
		s.reached.Store(new(position))
	}
	return nil
}
