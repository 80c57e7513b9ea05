package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// checkInterval plus checkTimeout bounds how long it takes to notice that the
	// broker is unreachable.
	checkInterval = time.Second
	checkTimeout  = 2 * time.Second

	// maxPause is the longest time between two attempts of a task that fails, and between
	// two lines of the log about the same error.
	maxPause = time.Minute

	// failureHold is how long the publisher is not ready after a failed publish. A
	// stream's info shows neither a failing disk nor a store at its limit; only
	// publishing does. After that, the next webhook tries again.
	failureHold = 10 * time.Second

	// leaderlessTimeout is how long a server may not answer or report no leader before
	// the publisher reconnects, to another server of a cluster. Leaving a server during
	// an election does no harm. The only server may have removed the subscription that
	// all requests share for their replies: it does so when the user loses the
	// permission for it, and restores it only for a new connection.
	leaderlessTimeout = 5 * time.Second

	// staleLeader bounds how long a leader that was replaced may answer, without what was
	// stored since: one that was frozen notices when it is reached, and one that reaches
	// nobody steps down after 10 s (lostQuorumInterval of nats-server).
	staleLeader = 10 * time.Second

	// smallEvent is the space, in bytes, that a limited stream must have left to be
	// writable.
	smallEvent = 4 << 10
)

// A failure is a failed publish.
type failure struct {
	err *Error
	at  time.Time
}

// failed classifies the error of a publish with ctx, and records it unless that message or
// overload may be the cause.
func (p *Publisher) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	e := classify(err)
	if e.reason != "refused" && e.reason != "overloaded" || errors.Is(err, errForeignAck) {
		p.lastFailure.Store(&failure{e, time.Now()})
	}
	return e
}

// Ready returns an error if the streams cannot be written. The result is at most a
// few seconds old. Ready does not block.
func (p *Publisher) Ready() error {
	if err := *p.ready.Load(); err != nil {
		return err
	}
	if f := p.lastFailure.Load(); f != nil && time.Since(f.at) < failureHold {
		return fmt.Errorf("the last publish failed: %w", f.err)
	}
	return nil
}

// repeat calls task after a second and then in every interval until ctx is done, in a
// goroutine that Close awaits. While task fails, the pause between two calls grows up to
// a limit: the broker may deny a request, and logs every denial. repeat logs each
// error once until task succeeds.
func (p *Publisher) repeat(ctx context.Context, interval, limit time.Duration, level slog.Level, failed string, task func(context.Context) error) {
	p.stopped.Go(func() {
		logged := make(map[string]bool)
		for pause := checkInterval; sleep(ctx, pause) == nil; {
			err := task(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				if len(logged) > 0 {
					p.cfg.Logger.Log(ctx, min(level, slog.LevelInfo), failed+": resolved")
				}
				pause = interval
				clear(logged)
				continue
			}
			if pause = min(2*pause, limit); !logged[err.Error()] {
				logged[err.Error()] = true
				p.cfg.Logger.Log(ctx, level, failed, "error", err)
			}
		}
	})
}

// sleep waits for d or until ctx is done, and returns ctx.Err().
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err()
}

// leaderUnknown reports whether the connected server does not answer or knows no leader
// for the streams. It may be partitioned from a cluster that has one.
func leaderUnknown(err error) bool {
	if err == nil {
		return false
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code == 503
	}
	reason := classify(err).reason
	return reason == "no_answer" || reason == "unreachable" || errors.Is(err, errNoLeader)
}

var (
	errLeaderReplaced = errors.New("the leader of the stream was replaced")
	errNoLeader       = errors.New("has no leader")
)

// errQuarantineAway means that only the leader of the quarantine is unknown.
var errQuarantineAway = errors.New("webhooks that are not understood cannot be stored")

// diagnose adds what the broker lacks to an error for which leaderUnknown is true.
func (p *Publisher) diagnose(err error) error {
	if p.cfg.Diagnose != nil && leaderUnknown(err) {
		if lacks := p.cfg.Diagnose(); lacks != nil {
			return fmt.Errorf("%w (%w)", lacks, err)
		}
	}
	return err
}

// rejected returns an error if a stream was edited since Open, and may not keep what it
// acknowledges.
func (p *Publisher) rejected() error {
	err := *p.ready.Load()
	if _, ok := errors.AsType[*ConflictError](err); !ok {
		return nil
	}
	return &Error{"refused", err}
}

// monitor checks the streams for Ready, and reconnects if the leader stays unknown.
func (p *Publisher) monitor(ctx context.Context) error {
	p.checkBroker()
	err := p.check(ctx)
	if ctx.Err() != nil {
		return err
	}
	if p.uploads.Load() > 0 && errors.Is(err, context.DeadlineExceeded) { // the answer waits for what is sent; Store has a deadline
		p.unknownSince = time.Time{}
		return nil
	}
	p.setReady(err)
	switch {
	case !leaderUnknown(err) || errors.Is(err, errQuarantineAway) || !p.nc.IsConnected():
		p.unknownSince = time.Time{}
	case p.unknownSince.IsZero():
		p.unknownSince = time.Now()
	case time.Since(p.unknownSince) > leaderlessTimeout:
		p.cfg.Logger.Warn("broker does not answer or knows no leader for the streams; reconnecting", "error", err)
		_ = p.nc.ForceReconnect() // fails if the connection is closed; see Closed
		p.unknownSince = time.Time{}
	}
	return err
}

// setReady takes the result of check over for Ready, which does not wait for the quarantine
// to have a leader: most webhooks are events.
func (p *Publisher) setReady(problem error) {
	if errors.Is(problem, errQuarantineAway) {
		problem = nil
	}
	p.ready.Store(&problem)
}

// checkBroker ends the session when Config.Ready begins to return an error: the broker
// does not answer the messages in flight after a failed write, or to a batch with which
// its store reaches its limit. Later messages are rejected with an answer.
func (p *Publisher) checkBroker() {
	if p.cfg.Ready == nil {
		return
	}
	err := p.cfg.Ready()
	if was := p.notReady.Swap(err != nil); err != nil && !was {
		p.newSession(&unwritableError{err})
	}
}

// check looks at all streams. It returns why events or quarantined webhooks cannot be
// stored, or nil.
func (p *Publisher) check(ctx context.Context) (problem error) {
	if !p.nc.IsConnected() {
		return p.disconnected()
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for kind := range schema.Kinds {
		err := p.checkStream(ctx, kind)
		switch {
		case err == nil || problem != nil || kind == schema.KindDead:
		case kind == schema.KindQuarantine && leaderUnknown(err):
			problem = fmt.Errorf("%w: %w", errQuarantineAway, err)
		default:
			problem = p.diagnose(err)
		}
	}
	return problem
}

// checkStream compares a stream with its mark. It returns an error if the stream has no
// leader or no space, or if an operator has edited it so that it cannot hold the
// promise. It recreates a stream that was deleted, because rejecting events
// indefinitely would not restore the old ones.
func (p *Publisher) checkStream(ctx context.Context, kind schema.Kind) error {
	name, latest := kind.Stream(p.cfg.Stream), &p.metrics.streams[kind]
	if kind == schema.KindDead && latest.Load() == nil && p.marks.get(name).Created.IsZero() {
		return nil // no consumer has dead-lettered anything, or this user cannot see the stream
	}
	acked := p.marks.acked[kind].Load() // before the stream's state is requested
	stream, err := p.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if kind == schema.KindDead {
			if isCluster := p.terms[schema.KindEvent].Load() != nil; !p.mayBeStale(kind, isCluster) {
				p.marks.compare(observation{kind: kind, name: name, info: &jetstream.StreamInfo{}})
			}
			return nil
		}
		if stream, err = p.ensure(ctx, kind); err == nil {
			p.cfg.Logger.Error("stream had been deleted; it was recreated", "stream", name)
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	latest.Store(info)
	if kind != schema.KindDead && IsFromLeader(info.Cluster, info.Config.Replicas) {
		p.followLeader(kind, info.Cluster)
	}
	if p.cfg.Hub {
		// deletions by others are normal
	} else if err := p.compareMark(ctx, kind, stream, acked); err != nil && ctx.Err() == nil {
		p.cfg.Logger.Debug("high-water mark was not updated", "stream", name, "error", err)
	}
	if err := conflictIn(name, p.cfg.Inspect(kind, info.Config)); err != nil {
		return err
	}
	if err := writable(info); err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	return nil
}

// followLeader ends the term of a stream's leader when there is another one.
func (p *Publisher) followLeader(kind schema.Kind, c *jetstream.ClusterInfo) {
	if c == nil || c.Leader == "" {
		return
	}
	if leader := fmt.Sprint(c.Leader, c.LeaderSince); leader != p.leaders[kind] {
		p.leaders[kind] = leader
		renew(&p.terms[kind], errLeaderReplaced)
	}
}

func writable(info *jetstream.StreamInfo) error {
	c, s := info.Config, info.State
	switch {
	case info.Cluster != nil && info.Cluster.Leader == "":
		return errNoLeader
	case c.MaxMsgs > 0 && s.Msgs >= uint64(c.MaxMsgs):
		return fmt.Errorf("is full: %d messages of %d", s.Msgs, c.MaxMsgs)
	case c.MaxBytes > 0 && s.Bytes+smallEvent > uint64(c.MaxBytes):
		return fmt.Errorf("is full: %d bytes of %d", s.Bytes, c.MaxBytes)
	}
	return nil
}
