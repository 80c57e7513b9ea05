package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// desired is the stream that a kind of message needs.
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
		Discard:     jetstream.DiscardNew, // a full stream refuses; it forgets nothing
		Replicas:    c.Replicas,
		MaxAge:      c.MaxAge,
		Duplicates:  window(c.DedupeWindow, c.MaxAge),
		AllowDirect: true,

		AllowAtomicPublish: true,

		Metadata: kind.Metadata(c.Stream),
	}
}

// claimTimeout bounds the update that only gives a stream its owner. Without the
// permission for it there is no answer.
const claimTimeout = time.Second

// ensure creates the stream or widens an existing one to what the promise
// needs. It returns a [*ConflictError] when only a person can do that; every
// other error may pass.
func (p *Publisher) ensure(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	want := p.cfg.desired(kind)
	existing, err := p.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !p.cfg.KeepStreams {
		if p.cfg.MayCreate != nil {
			if err := p.cfg.MayCreate(want.Name); err != nil {
				return nil, &ConflictError{want.Name, err.Error()}
			}
		}
		p.cfg.Logger.Info("creating stream", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
		stream, err := p.js.CreateStream(ctx, want)
		return stream, conflict(want.Name, "creating it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up stream %s: %w", want.Name, err)
	}

	wider, gaps := p.cfg.inspect(kind, existing.CachedInfo().Config)
	if err := conflictIn(want.Name, gaps); err != nil {
		return nil, err
	}
	if p.cfg.KeepStreams {
		return existing, nil
	}
	changed, needed := false, false
	for _, gap := range gaps {
		if gap.Weight == Kept {
			p.cfg.Logger.Warn("stream "+gap.Problem, "stream", want.Name, "because", gap.Why, "remedy", gap.Remedy)
			continue
		}
		p.cfg.Logger.Info("widening stream, which "+gap.Problem, "stream", want.Name, "because", gap.Why)
		changed, needed = true, needed || gap.Name != unclaimed
	}
	if !changed {
		return existing, nil
	}
	if !needed { // a user who may not update streams can go on without it
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, claimTimeout)
		defer cancel()
	}
	stream, err := p.js.UpdateStream(ctx, wider)
	if err != nil && !needed {
		p.cfg.Logger.Warn("stream could not be updated to say which ingress it belongs to", "stream", want.Name, "error", err,
			"remedy", edit(want.Name, claimFlags(want.Metadata)))
		return existing, nil
	}
	return stream, conflict(want.Name, "updating it", err)
}

// conflict tells what a person must settle from what may pass by itself.
func conflict(stream, doing string, err error) error {
	if err == nil {
		return nil
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || mayPass(api) {
		return fmt.Errorf("stream %s: %s: %w", stream, doing, err)
	}
	return &ConflictError{stream, fmt.Sprintf("%s: the broker refuses: %s (%d)", doing, api.Description, api.ErrorCode)}
}

// mayPass reports whether the broker may accept the same request later. A status
// of 5xx, or 429, blames the state of the broker, such as a store that cannot be
// created at the moment (10049), and any other one the request. The codes that are
// listed here have the wrong status.
func mayPass(e *jetstream.APIError) bool {
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
