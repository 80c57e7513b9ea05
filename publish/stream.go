package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// desired returns the configuration of the stream for a kind of message.
func (c Config) desired(kind schema.Kind) jetstream.StreamConfig {
	description := "Canonical events of completed interviews, each once"
	if kind == schema.KindQuarantine {
		description = "Authentic webhooks that were not understood, raw"
	}
	return jetstream.StreamConfig{
		Name:        kind.Stream(c.Stream),
		Description: description,
		Subjects:    []string{kind.Prefix(c.Subject) + ".>"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew, // a full stream rejects new messages instead of losing old ones
		Replicas:    c.Replicas,
		MaxBytes:    c.MaxBytes,
		MaxAge:      c.brokerAge(),
		Duplicates:  window(c.DedupeWindow, c.brokerAge()),
		AllowDirect: true,

		AllowAtomicPublish: true,

		Metadata: kind.Metadata(c.Stream),
	}
}

// brokerAge returns the age at which the broker removes messages. It would also remove
// those that have not been forwarded.
func (c Config) brokerAge() time.Duration {
	if c.Forwarded {
		return 0
	}
	return c.MaxAge
}

// claimTimeout bounds an update that only records the owner of a stream. Without
// permission for the update there is no answer.
const claimTimeout = time.Second

// ensure creates the stream, or repairs the drifts of an existing one. It returns a
// [*ConflictError] for a problem that an operator must resolve; every other error may
// be temporary.
func (p *Publisher) ensure(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	// A cluster may never answer requests about a stream that another ingress is just
	// creating or updating. They must be repeated soon.
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	want := p.cfg.desired(kind)
	existing, err := p.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !p.cfg.KeepStreams {
		if p.cfg.MayCreate != nil && !p.creating[kind] {
			if err := p.cfg.MayCreate(want.Name); err != nil {
				return nil, &ConflictError{want.Name, err.Error()}
			}
		}
		p.cfg.Logger.Info("creating stream", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
		p.creating[kind] = true
		stream, err := p.js.CreateStream(ctx, want)
		p.creating[kind] = err != nil
		return stream, conflict(want.Name, "creating it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up stream %s: %w", want.Name, err)
	}

	repaired, drifts := p.cfg.inspect(kind, existing.CachedInfo().Config)
	if err := conflictIn(want.Name, drifts); err != nil {
		return nil, err
	}
	if p.cfg.KeepStreams {
		return existing, nil
	}
	changed, needed := false, false
	for _, d := range drifts {
		if d.Action == Tolerate {
			p.cfg.Logger.Warn("stream "+d.Problem, "stream", want.Name, "because", d.Why, "remedy", d.Remedy)
			continue
		}
		p.cfg.Logger.Info("updating stream, which "+d.Problem, "stream", want.Name, "because", d.Why)
		changed, needed = true, needed || d.Name != unclaimed
	}
	if !changed {
		return existing, nil
	}
	if !needed { // it is optional, and a user without permission must not wait long
		ctx, cancel = context.WithTimeout(ctx, claimTimeout)
		defer cancel()
	}
	stream, err := p.js.UpdateStream(ctx, repaired)
	if err != nil && !needed {
		p.cfg.Logger.Warn("stream could not be updated to record which ingress it belongs to", "stream", want.Name, "error", err,
			"remedy", p.cfg.edit(want.Name, claimFlags(want.Metadata)))
		return existing, nil
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == errCodeStorageExceeded { // though max_bytes stays
		return nil, &ConflictError{want.Name, fmt.Sprintf("updating it: the max_bytes of all streams, of which it has %d, exceed the store of the broker; "+
			"raise INGRESS_MAX_STORE, or max_file_store of an external server, above them; when the ingress runs, you can lower max_bytes", repaired.MaxBytes)}
	}
	return stream, conflict(want.Name, "updating it", err)
}

// conflict wraps an error of the broker: in a [*ConflictError], unless it may be
// temporary.
func conflict(stream, doing string, err error) error {
	if err == nil {
		return nil
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || isTemporary(api) {
		return fmt.Errorf("stream %s: %s: %w", stream, doing, err)
	}
	problem := fmt.Sprintf("%s: the broker does not allow it: %s (%d)", doing, api.Description, api.ErrorCode)
	switch api.ErrorCode {
	case errCodeMaxBytesRequired:
		problem += "; set INGRESS_STREAM_MAX_BYTES, for example to 10GiB"
	case errCodeSubjectOverlap:
		problem += "; if INGRESS_STREAM was changed, set it back to the stream that has the events, or change INGRESS_SUBJECT as well to begin with an empty one"
	}
	return &ConflictError{stream, problem}
}

// isTemporary reports whether the broker may accept the same request later. A status
// of 5xx or 429 means that the state of the broker is the cause, such as a store that
// cannot be created (10049); any other status means that the request is. The codes
// listed here have the wrong status.
func isTemporary(e *jetstream.APIError) bool {
	switch e.ErrorCode {
	case errCodeInvalidConfig, errCodeReplicasUnsupported:
		return false
	case jetstream.JSErrCodeStreamNameInUse, // another ingress has just created it
		jetstream.JSErrCodeStreamNotFound, // deleted since it was looked up
		errCodeNoPeers, errCodeMoveInProgress, errCodeReconfigureInProgress:
		return true
	}
	return e.Code >= http.StatusInternalServerError || e.Code == http.StatusTooManyRequests
}

// ErrNotLeader means that the state of a stream is not that of its leader; see [IsFromLeader].
var ErrNotLeader = errors.New("the server that has answered does not lead the stream, and may lack what was stored; retry in 10 seconds")

// IsFromLeader reports whether the state of a stream, or of a consumer of one, with so many
// replicas comes from its leader. For 10 seconds after its start a NATS server also answers
// for streams that others lead, with what it has of them so far, which after the loss of
// its disk is nothing (ADR 28).
func IsFromLeader(c *jetstream.ClusterInfo, replicas int) bool {
	return replicas <= 1 ||
		c != nil && c.Leader != "" && len(c.Replicas) > 0 && !slices.ContainsFunc(c.Replicas, func(p *jetstream.PeerInfo) bool { return p.Name == c.Leader })
}

// OpenStream looks up a stream and its state at its leader. The stream also looks up
// messages there. It waits for an answer of the leader until ctx ends, and then returns
// [ErrNotLeader].
func OpenStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	for {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if info := stream.CachedInfo(); IsFromLeader(info.Cluster, info.Config.Replicas) {
			readFromLeader(stream)
			return stream, nil
		}
		if sleep(ctx, leaderWait) != nil {
			return nil, fmt.Errorf("stream %s: %w", name, ErrNotLeader)
		}
	}
}

// leaderWait is the time between two attempts to be answered by the leader of a stream.
const leaderWait = 250 * time.Millisecond

// ReadState returns the state of a stream, with what an option adds, at its leader. It
// returns [ErrNotLeader] if another server answers. The stream looks up messages at its
// leader afterwards. Do not use it concurrently.
func ReadState(ctx context.Context, stream jetstream.Stream, option jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := stream.Info(ctx, option)
	if err == nil && !IsFromLeader(info.Cluster, info.Config.Replicas) {
		err = ErrNotLeader
	}
	readFromLeader(stream) // Info has replaced its configuration
	if err != nil {
		return nil, fmt.Errorf("state of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	return info, nil
}

// readFromLeader makes stream look up messages at its leader. Otherwise a direct
// get may ask a replica that lags, which reports a stored message as not found.
func readFromLeader(stream jetstream.Stream) {
	stream.CachedInfo().Config.AllowDirect = false // nats.go chooses by this field
}
