package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// healInterval is between two looks at the server's health.
	healInterval = time.Second
	// A restart interrupts subscribers and costs the recovery of the streams.
	// The first comes at once, the next after minPause, and each further one
	// after twice as long, up to maxPause.
	minPause, maxPause = 5 * time.Second, 5 * time.Minute
	// healRoom is the free space in bytes from which a restart is worth it.
	healRoom = 16 << 20
	// smallEvent is the room, in bytes, that a store must have left not to be
	// full.
	smallEvent = 4 << 10
)

// Ready returns nil while the store can be written, as far as the server
// knows, else why not: it is at its limit, or a write has failed.
func (b *Broker) Ready() error {
	s, maxStore := b.current()
	if err := broken(s); err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	info, err := s.Jsz(nil)
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	if info.Store+smallEvent > uint64(maxStore) {
		return fmt.Errorf("embedded broker: store is full: %d bytes of %d", info.Store, maxStore)
	}
	return nil
}

// broken returns what only a restart of the server mends: after a write has
// failed, it never tries again for that stream and leaves every publisher
// without an answer, or it has switched JetStream off.
func broken(s *server.Server) error {
	switch {
	case !s.Running():
		return errors.New("not running")
	case !s.JetStreamEnabled():
		return errors.New("JetStream has switched itself off after a failed write")
	}
	for _, e := range s.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type == server.HealthzErrorStream && strings.Contains(e.Error, "write error") {
			return errors.New(e.Error)
		}
	}
	return nil
}

// heal restarts the server, until ctx ends, when it is broken and the disk has
// space again. Nothing is lost by it: what was acknowledged is on the disk, and
// what a failed write has left behind it is cut off as after a crash.
func (b *Broker) heal(ctx context.Context) {
	ticker := time.NewTicker(healInterval)
	defer ticker.Stop()
	var pause time.Duration // between last and the next restart
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s, _ := b.current()
		problem := broken(s)
		if problem == nil {
			if time.Since(last) > maxPause {
				pause = 0
			}
			continue
		}
		if time.Since(last) < pause {
			continue
		}
		if free, err := freeBytes(b.cfg.Dir); err == nil && free < healRoom {
			continue // readiness says why
		}
		b.cfg.Logger.Error("embedded broker cannot write; restarting it", "error", problem)
		pause = min(max(2*pause, minPause), maxPause)
		err := b.restart(ctx, s)
		last = time.Now()
		if err != nil {
			b.cfg.Logger.Error("embedded broker does not start again; trying later", "error", err, "wait", pause)
			continue
		}
		b.cfg.Logger.Info("embedded broker is running again", "subscribers", b.url)
	}
}

// restart replaces s by a new server, as a new process would start it, on the
// same port.
func (b *Broker) restart(ctx context.Context, s *server.Server) error {
	options, err := b.cfg.options()
	if err != nil {
		return err // of a configuration file that was edited; better s than none
	}
	if options.Port == server.RANDOM_PORT {
		options.Port = b.port
	}
	s.Shutdown()
	s.WaitForShutdown()
	return b.launch(ctx, options)
}
