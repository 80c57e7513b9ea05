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
// knows, else why not: it is at its limit, a write has failed, or the server
// could not be started again after that.
func (b *Broker) Ready() error {
	if err := b.Durable(); err != nil {
		return err
	}
	s, maxStore := b.current()
	info, err := s.Jsz(nil)
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	if info.Store+smallEvent > uint64(maxStore) {
		return fmt.Errorf("embedded broker: store is full: %d bytes of %d", info.Store, maxStore)
	}
	return nil
}

// Durable returns an error if what the server reports as stored may not be on
// the disk. After a failed write it answers no publisher of a new message, but
// it knows the messages of a batch whose fsync has failed, and reports a second
// copy of one as a duplicate.
func (b *Broker) Durable() error {
	b.mu.Lock()
	s, err := b.server, b.down
	b.mu.Unlock()
	if err == nil {
		err = broken(s)
	}
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	return nil
}

// broken returns an error that only a restart of the server can clear: after a
// failed write it does not try again for that stream and leaves every publisher
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
// space again. What was acknowledged is on the disk and is there afterwards. A
// failed write may have left more, which the server then reads: complete
// messages, which are made durable before it starts (see rewriteLastBlocks), and
// an incomplete one at the end, which it cuts off as after a crash. If that or a
// check of the store fails, there is no server until a later attempt succeeds.
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
		b.mu.Lock()
		b.down = err
		b.mu.Unlock()
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
		return err // the configuration file was edited; s can still be read from
	}
	if options.Port == server.RANDOM_PORT {
		options.Port = b.port
	}
	s.Shutdown()
	s.WaitForShutdown()
	return b.launch(ctx, options)
}
