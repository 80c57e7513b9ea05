package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// checkInterval and checkTimeout together bound how long the loss of the
	// broker goes unnoticed.
	checkInterval = time.Second
	checkTimeout  = 2 * time.Second

	// troubleHold is for how long a failed publish makes the streams count as
	// not writable. The broker's own word on a stream does not show a failing
	// disk or a store at its limit; only writing does. After the hold, the
	// next webhook tries again.
	troubleHold = 10 * time.Second

	// moveOn is after how long without a leader another server of the cluster
	// is tried. Leaving one that only waits for an election does no harm.
	moveOn = 5 * time.Second

	// deafAfter is after how long without an answer the publisher finds out
	// whether its reply subscription is the reason; see isDeaf.
	deafAfter = checkTimeout

	// smallEvent is the room, in bytes, that a stream with a limit must have
	// left to count as writable.
	smallEvent = 4 << 10
)

// trouble is the last publish that failed, if none has succeeded since.
type trouble struct {
	err *Error
	at  time.Time
}

// failed classifies the error of a publish and remembers it, unless it may be
// the fault of that one message, or of too many.
func (p *Publisher) failed(err error) error {
	e := classify(err)
	if e.reason != "refused" && e.reason != "overloaded" || errors.Is(err, errForeign) {
		p.troubled.Store(&trouble{e, time.Now()})
	}
	return e
}

// confirmDuplicate returns an error if a message that the broker reports as a
// duplicate may not be on its disk. It acknowledges a new message after its
// fsync, but knows those of a batch before.
func (p *Publisher) confirmDuplicate() error {
	if p.cfg.Durable == nil {
		return nil
	}
	if err := p.cfg.Durable(); err != nil {
		return &Error{"no_answer", fmt.Errorf("duplicate is not confirmed: %w", err)}
	}
	return nil
}

// Ready returns nil while the streams can be written, else why they cannot.
// It is at most a few seconds old.
func (p *Publisher) Ready() error {
	if err := p.ready.Load(); err != nil {
		return *err
	}
	if t := p.troubled.Load(); t != nil && time.Since(t.at) < troubleHold {
		return fmt.Errorf("the last publish failed: %w", t.err)
	}
	return nil
}

// monitor checks the streams until ctx ends.
func (p *Publisher) monitor(ctx context.Context) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	var lost time.Time // since when the server knows nothing of the streams; zero while it does
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		p.transition(err)

		switch {
		case !isLost(err) || !p.nc.IsConnected():
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > moveOn && len(p.nc.Servers()) > 1:
			p.cfg.Logger.Warn("broker has no leader for the streams; trying another of its servers", "error", err)
			_ = p.nc.ForceReconnect() // fails when the connection is closed; see Closed
			lost = time.Time{}
		case time.Since(lost) > deafAfter && p.isDeaf(ctx):
			p.cfg.Logger.Warn("broker has removed the subscription for its answers, and answers another one; reconnecting", "error", err)
			_ = p.nc.ForceReconnect()
			lost = time.Time{}
		}
	}
}

// isDeaf reports whether the broker answers a request whose reply subject has
// a subscription of its own, and not one after it that shares the subscription of
// all others. It has removed that one then. A server does so when the permission
// is taken away, and it neither restores the subscription nor notifies the client
// when the permission is back: only a new connection helps. Until the permission
// is back a new subscription is denied as well, so no reconnection is in vain.
func (p *Publisher) isDeaf(ctx context.Context) bool {
	own, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	inbox := p.nc.NewInbox()
	sub, err := p.nc.SubscribeSync(inbox)
	if err != nil {
		return false
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that it has ended
	if err := p.nc.PublishRequest(jetstream.DefaultAPIPrefix+"STREAM.INFO."+p.cfg.Stream, inbox, nil); err != nil {
		return false
	}
	if answer, err := sub.NextMsgWithContext(own); err != nil || answer.Header.Get("Status") == noResponders {
		return false
	}
	shared, cancel := context.WithTimeout(ctx, checkTimeout/2)
	defer cancel()
	_, err = p.js.Stream(shared, p.cfg.Stream)
	return errors.Is(err, context.DeadlineExceeded)
}

// isLost reports whether the rest of a cluster may know more than the server
// that we are connected to: it can be cut off from the others.
func isLost(err error) bool {
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

func (p *Publisher) transition(err error) {
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

// check asks the broker whether both streams have a leader and room, and can
// still hold the promise: an operator may have edited them. A stream
// that is gone, because the broker came back empty or somebody deleted it, is
// created again: refusing events for ever would not bring the old ones back.
func (p *Publisher) check(ctx context.Context) error {
	if !p.nc.IsConnected() {
		return errors.New("no connection to the broker")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for kind := range p.streams {
		name := schema.Kind(kind).Stream(p.cfg.Stream)
		stream, err := p.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if stream, err = p.ensure(ctx, schema.Kind(kind)); err == nil {
				p.cfg.Logger.Error("stream was gone; it was created again", "stream", name)
			}
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		p.metrics.streams[kind].Store(stream.CachedInfo())
		if err := conflictIn(name, p.cfg.Inspect(schema.Kind(kind), stream.CachedInfo().Config)); err != nil {
			return err
		}
		if err := writable(stream.CachedInfo()); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
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
