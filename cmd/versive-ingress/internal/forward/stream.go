package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A stream is one of the edge's streams. The goroutine of watch owns what has no other
// comment.
type stream struct {
	*Forwarder
	kind schema.Kind

	status    atomic.Pointer[Status]
	forwarded atomic.Pointer[upPosition]   // advanced by up
	reached   atomic.Pointer[downPosition] // advanced by applyErasures
	down      atomic.Pointer[downPosition] // reached, once compare has seen that the hub's stream is still the same
	there     atomic.Pointer[confirmation] // advanced by up
	compared  atomic.Pointer[connection]   // in which compare has seen that the hub's stream is still the same; up waits for it
	hubLoss   atomic.Bool                  // whether compare has found a loss, until watch has acted on it

	replicated bool // whether the hub's stream has replicas; owned by compare

	created   time.Time // of the edge's stream
	leads     bool      // whether this ingress forwards it
	saved     uint64    // forwarded, as saved
	savedDown downPosition
	rate      rate   // of the link to the hub; owned by up
	stop      func() // ends up and down; nil if they do not run
	expired   time.Time

	mu     sync.Mutex
	erased []uint64 // sequences in the edge's stream that were overwritten since the last look; guarded by mu
}

func (s *stream) name() string { return s.kind.Stream(s.cfg.Settings.Stream) }

// watch looks at the stream every second until ctx ends.
func (s *stream) watch(ctx context.Context) {
	defer func() {
		if s.stop == nil {
			return
		}
		s.end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), interval)
		defer cancel()
		_ = s.save(ctx) // otherwise the last second is forwarded again
	}()
	for logged := lastError(""); ctx.Err() == nil; sleep(ctx, interval) {
		if err := s.tick(ctx); logged.isNew(ctx, err) {
			s.log.Warn("forwarding of a stream is held up; retrying", "stream", s.name(), "error", err)
		}
	}
}

// first looks at the stream until that succeeds, and reports whether it has before ctx
// ended.
func (s *stream) first(ctx context.Context) bool {
	for logged := lastError(""); ctx.Err() == nil; sleep(ctx, interval/4) {
		look, cancel := context.WithTimeout(ctx, 10*interval)
		err := s.look(look)
		cancel()
		if err == nil {
			return true
		}
		if logged.isNew(ctx, err) {
			s.log.Warn("forwarding cannot begin; retrying", "stream", s.name(), "error", err)
		}
	}
	return false
}

func (s *stream) tick(ctx context.Context) error {
	tick, cancel := context.WithTimeout(ctx, 10*interval)
	defer cancel()
	if err := s.look(tick); err != nil {
		return err
	}
	switch {
	case !s.leads:
		s.end()
		return nil
	case s.stop == nil:
		s.begin(ctx)
	}
	return errors.Join(s.save(tick), s.expire(tick), s.settle())
}

// look reads the state of the stream and its consumer, and corrects the positions.
func (s *stream) look(ctx context.Context) error {
	if s.status.Load() == nil {
		s.status.Store(&Status{})
	}
	stream, err := s.cfg.Edge.JetStream.Stream(ctx, s.name())
	if s.kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound) { // no consumer has dead-lettered anything
		s.end()
		s.leads = false
		s.status.Store(&Status{})
		return nil
	}
	if err != nil {
		return err
	}
	info, err := s.open(ctx, stream)
	if err != nil {
		return err
	}
	forwarded := s.forwarded.Load()
	if stream, err = publish.OpenStream(ctx, s.cfg.Edge.JetStream, s.name()); err != nil { // its end is after the positions
		return err
	}
	if !publish.IsFromLeader(info.Cluster, stream.CachedInfo().Config.Replicas) {
		return fmt.Errorf("consumer %s: %w", Consumer, publish.ErrNotLeader)
	}
	s.leads = info.Cluster == nil || info.Cluster.Leader == s.cfg.Edge.NC.ConnectedServerName()
	if s.stop == nil || !s.created.Equal(stream.CachedInfo().Created) {
		s.end()
		down := readDown(info.Config.Metadata)
		s.created, s.saved, s.savedDown = stream.CachedInfo().Created, info.AckFloor.Stream, down
		forwarded = &upPosition{sequence: s.saved}
		s.forwarded.Store(forwarded)
		s.reached.Store(&down)
		s.down.Store(&down)
		s.there.Store(&down.there)
	}
	s.saved = min(s.saved, info.AckFloor.Stream) // another ingress that forwarded for a moment may have lowered it
	if s.leads {
		if err := s.correct(ctx, stream, *forwarded); err != nil {
			return err
		}
	}
	if s.hubLoss.Swap(false) {
		s.log.Warn("hub has lost messages; all that this edge has are forwarded again", "stream", s.name())
		s.end()
		s.forwarded.Store(&upPosition{})
		s.reached.Store(&downPosition{})
		s.down.Store(&downPosition{})
		s.there.Store(&confirmation{})
		if err := s.save(ctx); err != nil { // the position first
			return err
		}
	}
	// The consumer's count is of the saved position, and can be off by messages that were
	// stored while that was changed.
	position, end := s.forwarded.Load().sequence, stream.CachedInfo().State.LastSeq
	pending := info.NumPending - min(info.NumPending, position-min(position, info.AckFloor.Stream))
	status, err := readStatus(ctx, stream, position, min(pending, end-min(position, end)))
	if err == nil {
		s.status.Store(&status)
	}
	return err
}

// correct lowers a position that is that of a message which the stream no longer has: a
// message can be forwarded before its fsync fails, and the next start of the broker drops
// it. Its sequence is that of another message then.
func (s *stream) correct(ctx context.Context, stream jetstream.Stream, forwarded upPosition) error {
	to := stream.CachedInfo().State.LastSeq
	if forwarded.sequence <= to {
		if forwarded.time.IsZero() {
			return nil
		}
		m, err := stream.GetMsg(ctx, forwarded.sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Time.Equal(forwarded.time) {
			return nil
		}
		if err != nil {
			return err
		}
		to = 0 // how many were dropped is not known
	}
	s.log.Warn("stream has lost messages that were forwarded; those after are forwarded again", "stream", s.name(), "forwarded", forwarded.sequence, "after", to)
	s.end()
	s.forwarded.Store(&upPosition{sequence: to})
	return s.save(ctx)
}

// begin starts up and down.
func (s *stream) begin(ctx context.Context) {
	s.compared.Store(nil)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.repeat(ctx, s.up) })
	running.Go(func() { s.repeat(ctx, s.applyErasures) })
	running.Go(func() { s.repeat(ctx, s.compare) })
	s.stop = func() {
		cancel()
		running.Wait()
	}
}

func (s *stream) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// repeat calls task with the hub until ctx ends, whenever it is open.
func (s *stream) repeat(ctx context.Context, task func(context.Context, *publish.Publisher) error) {
	for logged := lastError(""); ctx.Err() == nil; sleep(ctx, interval/4) {
		hub := s.hub.Load()
		if hub == nil {
			continue
		}
		if err := task(ctx, hub); logged.isNew(ctx, err) {
			s.log.Warn("forwarding is interrupted; retrying", "stream", s.name(), "error", err)
		}
	}
}

// expire removes messages that are older than INGRESS_MAX_AGE, and that the hub has
// confirmed, once a minute.
func (s *stream) expire(ctx context.Context) error {
	age := s.cfg.Settings.MaxAge
	if age == 0 || time.Since(s.expired) < min(time.Minute, max(age/10, interval)) {
		return nil
	}
	stream, err := s.cfg.Edge.JetStream.Stream(ctx, s.name())
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	before, end := info.TimeStamp.Add(-age), info.State.LastSeq+1
	if info.State.Msgs == 0 || info.State.FirstTime.After(before) {
		return nil
	}
	for m, err := range s.cfg.Edge.Source.Range(ctx, subscribe.Selection{Kind: s.kind, Subject: broker.AnySubject, Since: before, HeadersOnly: true}) {
		if err != nil {
			return err
		}
		end = m.Sequence
		break
	}
	if end = min(end, s.forwarded.Load().sequence+1); end > info.State.FirstSeq {
		if err := stream.Purge(ctx, jetstream.WithPurgeSequence(end)); err != nil {
			return fmt.Errorf("removing what is older than INGRESS_MAX_AGE: %w", err)
		}
	}
	s.expired = time.Now()
	return nil
}

// erase erases a subject at the edge, where the hub has a tombstone.
func (s *stream) erase(ctx context.Context, subject string) error {
	copies, err := s.eraser.EraseSubject(ctx, s.kind, subject)
	for _, c := range copies {
		owner := s.streams[c.Kind]
		owner.mu.Lock()
		owner.erased = append(owner.erased, c.Sequence)
		owner.mu.Unlock()
	}
	return err
}

// settle makes it durable that messages were overwritten.
func (s *stream) settle() error {
	s.mu.Lock()
	sequences := s.erased
	s.erased = nil
	s.mu.Unlock()
	if len(sequences) == 0 || s.cfg.Settings.Replicas > 1 {
		return nil
	}
	erased := embedded.Erased{Stream: s.name(), Created: s.created, Sequences: sequences}
	remaining, err := erased.Sync(s.cfg.Settings.DataDir)
	if len(remaining) > 0 {
		erased.Sequences = remaining
		err = errors.Join(err, erased.Schedule(s.cfg.Settings.DataDir))
	}
	if err != nil {
		return fmt.Errorf("an erasure may not be durable: %w", err)
	}
	return nil
}
