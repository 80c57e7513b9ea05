package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// After a failed write a server never writes to that stream again. So the broker is
//
//	sound   its server runs and has no failed write; it may be at its limit
//	broken  a write has failed: new messages get no answer, reads are still served; or it
//	        is not ready for connections
//	down    no server runs, because a check of the store or the start has failed
//
// The goroutine of heal turns broken and down into sound by a restart, as soon as the
// disk has space and the pause since the last restart is over. It restarts a server with an
// outdated limit, whose messages Sync could not sync, or that keeps the rest of a batch, in
// the same way. It alone replaces Broker.server and Broker.down, with mu held; mu is held
// only to read and replace these. What others call on the old server meanwhile fails.

const (
	// healInterval is how often the server's health is checked.
	healInterval = time.Second
	// A restart interrupts subscribers and recovers all streams, which takes time.
	// The first is immediate, the second follows after minPause, and each further
	// one after twice the pause, up to maxPause.
	minPause, maxPause = 5 * time.Second, 5 * time.Minute
	// minFree is the free disk space, in bytes, without which a restart is
	// pointless.
	minFree = 16 << 20
	// maxStaged is for how many checks of the health a batch may be staged. The server
	// discards one that is not committed after 10 s.
	maxStaged = 15
	// smallEvent is the space, in bytes, that the store must have left to be ready.
	smallEvent = 4 << 10
)

// Ready returns an error if the store cannot be written: it is at its limit, a
// write has failed, or the server did not restart after that. If errors.Is finds
// [syscall.ENOSPC] in the error, the reason is a lack of space.
func (b *Broker) Ready() error {
	if err := b.Durable(true); err != nil {
		return err
	}
	used, limit, err := b.Usage()
	if err == nil && used+smallEvent > limit {
		err = fmt.Errorf("embedded broker: %w", noSpaceError(fmt.Sprintf("store is full: %d bytes of %d", used, limit)))
	}
	return err
}

// A noSpaceError is an error for which errors.Is(err, syscall.ENOSPC) is true, whether
// the disk is full or the store is at its limit.
type noSpaceError string

func (e noSpaceError) Error() string { return string(e) }

// Is makes the error match [syscall.ENOSPC].
func (noSpaceError) Is(target error) bool { return target == syscall.ENOSPC }

// broken returns an error that only a restart of the server can clear: after a
// failed write the server no longer writes to that stream and does not answer its
// publishers, or it turns off JetStream.
func broken(s *server.Server) error {
	var problems []server.HealthzError
	for range 100 {
		problems = s.Healthz(&server.HealthzOptions{Details: true}).Errors
		// The server allows itself a millisecond to find that it is ready for connections. If a
		// busy machine takes longer, it reports only that, and no stream.
		if !slices.ContainsFunc(problems, isUnready) || !s.Running() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	switch { // afterwards, because a server that is shutting down reports no stream either
	case !s.Running():
		return errors.New("not running")
	case !s.JetStreamEnabled():
		return errors.New("JetStream has shut itself down after a failed write")
	}
	for _, p := range problems {
		switch {
		case isUnready(p):
			return errors.New(p.Error)
		case p.Type == server.HealthzErrorStream && strings.Contains(p.Error, "write error"):
			if strings.Contains(p.Error, syscall.ENOSPC.Error()) {
				return noSpaceError(p.Error)
			}
			return errors.New(p.Error)
		}
	}
	return nil
}

func isUnready(e server.HealthzError) bool { return e.Type == server.HealthzErrorConn }

// outgrown returns an error if the store is at a limit that was measured when the disk
// had less space. Only a restart of the server raises it.
func (b *Broker) outgrown() error {
	used, limit, err := b.Usage()
	if !b.measured || err != nil || used+smallEvent <= limit {
		return nil
	}
	if limit, err = measureLimit(b.cfg.Dir); err != nil || used+minFree > limit {
		return nil
	}
	return errors.New("the disk has more space than when the limit of the store was measured")
}

// stuck returns an error if a batch has been staged for too long. The server keeps a batch
// that it has stored in part, because the store or the account reached its limit, until it
// is restarted: on the disk, where an erasure does not look, and as one of the 50 that may
// be in flight. At its start it stores the rest, or removes it. Only heal calls stuck.
func (b *Broker) stuck() error {
	batches, _ := fs.Glob(os.DirFS(b.cfg.storeDir()), "*/streams/[^.]*/batches/*") // it fails only for a malformed pattern
	staged := make(map[string]int, len(batches))
	for _, batch := range batches {
		if staged[batch] = b.staged[batch] + 1; staged[batch] > maxStaged {
			return fmt.Errorf("a batch was stored in part when the store or the account was at its limit, and is still staged in %s", batch)
		}
	}
	b.staged = staged
	return nil
}

// heal restarts the server whenever it is broken or has outgrown its limit, and the
// disk has space, until ctx is done. Acknowledged messages are on the disk, so they
// survive. A failed write may have left more: complete messages, which are made durable
// before the server starts (see rewriteLastBlocks), and an incomplete one at the end,
// which the server truncates as after a crash. If a check of the store or the start
// fails, no server runs until a later attempt succeeds.
func (b *Broker) heal(ctx context.Context) {
	ticker := time.NewTicker(healInterval)
	defer ticker.Stop()
	var pause time.Duration // from last to the next restart
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s := b.current()
		problem := cmp.Or(broken(s), b.syncFailed(), b.outgrown(), b.stuck())
		if problem == nil {
			if time.Since(last) > maxPause {
				pause = 0
			}
			continue
		}
		if time.Since(last) < pause {
			continue
		}
		if free, err := freeBytes(b.cfg.Dir); err == nil && free < minFree {
			continue // Ready returns the reason
		}
		b.cfg.Logger.Error("embedded broker cannot write; restarting it", "error", problem)
		pause = min(max(2*pause, minPause), maxPause)
		err := b.restart(ctx, s)
		b.mu.Lock()
		if b.down = err; s.Running() { // it was not shut down
			b.down = nil
		}
		b.mu.Unlock()
		last = time.Now()
		if err != nil {
			b.cfg.Logger.Error("embedded broker failed to restart; retrying later", "error", err, "wait", pause.String())
			continue
		}
		b.cfg.Logger.Info("embedded broker is running again", "subscribers", b.url)
	}
}

// restart replaces s with a new server on the same port.
func (b *Broker) restart(ctx context.Context, s *server.Server) error {
	options, err := b.cfg.options()
	if err != nil {
		return err // the configuration file has changed; s is still running
	}
	if options.Port == server.RANDOM_PORT {
		options.Port = b.port
	}
	s.Shutdown()
	s.WaitForShutdown()
	return b.launch(ctx, options)
}
