package publish

import "github.com/nats-io/nats.go/jetstream"

// Mode says how messages that are published at the same time get into the
// stream. The promise is the same in every mode.
type Mode string

const (
	// ModeAuto chooses by what the broker is: ModeBatch where Config.SyncAlways
	// says that it syncs its disk for every message and the stream has one
	// replica, so that each message would cost an fsync of its own. Elsewhere
	// ModeSingle: a replicated stream syncs once for all messages of a Raft
	// append, and a server that syncs later waits for no disk at all.
	ModeAuto Mode = "auto"
	// ModeBatch commits those that wait in one atomic batch.
	ModeBatch Mode = "batch"
	// ModeSingle publishes each by itself, all at once.
	ModeSingle Mode = "single"
)

// batches decides the mode of a stream. A broker cannot be asked whether it
// syncs always: only its configuration knows.
func (c Config) batches(stream *jetstream.StreamConfig) bool {
	switch {
	case c.Mode == ModeSingle, !stream.AllowAtomicPublish: // older than 2.12
		return false
	case c.Mode == ModeBatch:
		return true
	default:
		return c.SyncAlways && stream.Replicas == 1
	}
}
