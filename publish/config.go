package publish

import (
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a Publisher. A field must be set unless its comment says what
// its zero value does.
type Config struct {
	// URL is a comma-separated list of the broker's addresses. It is ignored if
	// Options has nats.InProcessServer.
	URL string
	// Options are added to the options of the connection, for example for
	// credentials and TLS. They may be empty.
	Options []nats.Option
	// Explain, if not nil, returns an error that wraps one of a connection that was not
	// established, and explains it to an operator.
	Explain func(error) error

	CLI string // the nats command with the flags that reach the broker, for remedies; "" is without flags

	Stream       string        // name of the event stream; those of the other streams derive from it
	Subject      string        // first token of the events' subjects
	Replicas     int           // of each stream
	MaxBytes     int64         // of each stream that is created; 0 is unlimited
	MaxAge       time.Duration // of a stored message; 0 keeps messages indefinitely
	DedupeWindow time.Duration // duplicate window; shortened to MaxAge if that is shorter
	Timeout      time.Duration // of a Publish, including retries
	KeepStreams  bool          // neither create nor update streams; for a command that runs beside an ingress
	Forwarded    bool          // messages older than MaxAge are removed by their forwarder, not by the broker
	Hub          bool          // several ingresses write the streams: watch neither for losses nor for backlogs, and leave the subjects alone

	Mode       Mode // "" is ModeAuto
	SyncAlways bool // the broker syncs the disk before it acknowledges; see ModeAuto

	// MarksDir is an existing directory for the high-water marks of the streams,
	// which reveal a loss; see [ReadLosses]. No other Publisher may use it. If empty,
	// the marks are kept in memory, so that a loss between two runs goes unnoticed.
	MarksDir string
	// MayCreate, if not nil, is called before the Publisher creates a stream that the
	// broker does not know. It returns an error if that would lose stored messages.
	MayCreate func(stream string) error
	// Durable, if not nil, is called before messages are confirmed: once for those of a
	// batch. It returns an error if a message that the broker has acknowledged or, for a
	// duplicate, that it knows may not be on its disk. Calls can be concurrent.
	Durable func(duplicate bool) error
	// Sync, if not nil, returns when all messages that the broker knows are on its disk.
	// It is called before a message is confirmed that may belong to, or follow, a batch
	// which the broker has stored in part, without an fsync and without an answer:
	// JetStream does so when its store or the account reaches its limit. Calls can be
	// concurrent.
	Sync func() error
	// Ready, if not nil, is called every second. It returns an error if the broker
	// cannot store messages, which it may not report by itself: those in flight fail
	// then, and so do further ones while Durable returns an error. If errors.Is finds
	// [syscall.ENOSPC] in an error of either, the reason is a lack of space.
	Ready func() error
	// Diagnose, if not nil, returns what a broker lacks that does not answer, for the log
	// and for [Publisher.Ready], or nil.
	Diagnose func() error

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil registers nothing
}

// Mode determines how messages that are published concurrently are stored. The
// promise is the same in every mode.
type Mode string

const (
	// ModeAuto is ModeBatch for a stream with one replica if Config.SyncAlways is
	// set, because each message would then cost an fsync. Otherwise it is
	// ModeSingle: a replicated stream syncs once for all messages of a Raft append,
	// and a server that syncs periodically does not wait for the disk.
	ModeAuto Mode = "auto"
	// ModeBatch commits messages that wait at the same time in one atomic batch.
	ModeBatch Mode = "batch"
	// ModeSingle publishes each message by itself, concurrently.
	ModeSingle Mode = "single"
)

// batches reports whether messages for a stream are batched.
func (c Config) batches(stream *jetstream.StreamConfig) bool {
	switch {
	case c.Mode == ModeSingle, !stream.AllowAtomicPublish: // nats-server before 2.12
		return false
	case c.Mode == ModeBatch:
		return true
	default:
		return c.SyncAlways && stream.Replicas == 1
	}
}
