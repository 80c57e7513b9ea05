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

	// smallEvent is the space, in bytes, that a limited stream must have left to be
	// writable.
	smallEvent = 4 << 10
)

// A failure is a failed publish.
type failure struct {
	err *Error
	at  time.Time
}

// failed classifies the error of a publish, and records it unless that message or
// overload may be the cause.
func (p *Publisher) failed(err error) error {
	e := classify(err)
	if e.reason != "refused" && e.reason != "overloaded" || errors.Is(err, errForeignAck) {
		p.lastFailure.Store(&failure{e, time.Now()})
	}
	return e
}

// Ready returns an error if the streams cannot be written. The result is at most a
// few seconds old. Ready does not block.
func (p *Publisher) Ready() error {
	if err := p.ready.Load(); err != nil {
		return *err
	}
	if f := p.lastFailure.Load(); f != nil && time.Since(f.at) < failureHold {
		return fmt.Errorf("the last publish failed: %w", f.err)
	}
	return nil
}

// monitor checks the streams until ctx is done.
func (p *Publisher) monitor(ctx context.Context) {
	var unknownSince time.Time // since when the leader is unknown; zero while it is known
	for sleep(ctx, checkInterval) == nil {
		err := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		p.setReady(err)

		switch {
		case !leaderUnknown(err) || !p.nc.IsConnected():
			unknownSince = time.Time{}
		case unknownSince.IsZero():
			unknownSince = time.Now()
		case time.Since(unknownSince) > leaderlessTimeout:
			p.cfg.Logger.Warn("broker does not answer or knows no leader for the streams; reconnecting", "error", err)
			_ = p.nc.ForceReconnect() // fails if the connection is closed; see Closed
			unknownSince = time.Time{}
		}
	}
}

// maxPause is the longest time between two attempts of repeat, and between two lines of
// the log about the same error.
const maxPause = time.Minute

// repeat calls task every second until ctx is done. After an error, which it logs, it
// waits longer each time: the broker may deny the request, and logs every denial.
func (p *Publisher) repeat(ctx context.Context, level slog.Level, failed string, task func() error) {
	for pause := checkInterval; ; {
		err := task()
		if err == nil {
			pause = checkInterval
		} else if ctx.Err() == nil {
			pause = min(2*pause, maxPause)
			p.cfg.Logger.Log(ctx, level, failed, "error", err, "wait", pause)
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
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

var errNoLeader = errors.New("has no leader")

// setReady sets the result of Ready and logs changes.
func (p *Publisher) setReady(err error) {
	before := p.ready.Load()
	switch {
	case err != nil && (before == nil || (*before).Error() != err.Error()):
		p.cfg.Logger.Error("streams cannot be written", "error", err)
	case err == nil && before != nil:
		p.cfg.Logger.Info("streams can be written again")
	}
	if err == nil {
		p.ready.Store(nil)
	} else {
		p.ready.Store(&err)
	}
}

// check looks at all streams and saves their marks. It returns why events or quarantined
// webhooks cannot be stored, or nil.
func (p *Publisher) check(ctx context.Context) (problem error) {
	p.marks.readAcknowledged()
	defer p.marks.save()
	if !p.nc.IsConnected() {
		return errors.New("no connection to the broker")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for kind := range schema.KindDead + 1 {
		if err := p.checkStream(ctx, kind); err != nil && problem == nil && kind != schema.KindDead {
			problem = err
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
			p.marks.compare(observation{kind: kind, name: name, info: &jetstream.StreamInfo{}})
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
	if err := p.compareMark(ctx, kind, stream, acked); err != nil && ctx.Err() == nil {
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
