package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	}
}

// window returns the longest duplicate window of at most want that a stream
// with the given maximum age may have; 0 keeps messages for ever.
func window(want, maxAge time.Duration) time.Duration {
	if maxAge > 0 && maxAge < want {
		return maxAge
	}
	return want
}

// ensure creates the stream or widens an existing one to what the promise
// needs. It returns a [*ConflictError] when only a person can do that; every
// other error may pass.
func (p *Publisher) ensure(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	want := p.cfg.desired(kind)
	existing, err := p.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		p.cfg.Logger.Info("creating stream", "stream", want.Name, "subjects", want.Subjects, "replicas", want.Replicas)
		stream, err := p.js.CreateStream(ctx, want)
		return stream, conflict(want.Name, "creating it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up stream %s: %w", want.Name, err)
	}

	have := existing.CachedInfo().Config
	wider, notes, err := widen(have, want)
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		p.cfg.Logger.Warn(note, "stream", want.Name)
	}
	if wider == nil {
		return existing, nil
	}
	p.cfg.Logger.Info("updating stream", "stream", want.Name)
	stream, err := p.js.UpdateStream(ctx, *wider)
	return stream, conflict(want.Name, "updating it", err)
}

// widen returns have with every setting raised to what the promise needs, or
// nil if nothing is to be changed. What an operator has set by hand is never
// narrowed: where that matters, a note says so. A stream that cannot hold the
// promise is a [*ConflictError].
func widen(have, want jetstream.StreamConfig) (wider *jetstream.StreamConfig, notes []string, err error) {
	refuse := func(problem string) (*jetstream.StreamConfig, []string, error) {
		return nil, nil, &ConflictError{want.Name, problem}
	}
	const elsewhere = "; choose another INGRESS_STREAM, or recreate the stream"
	switch {
	case have.Mirror != nil:
		return refuse("is a mirror, which cannot be written to" + elsewhere)
	case have.Sealed:
		return refuse("is sealed, which cannot be written to" + elsewhere)
	case have.Retention != jetstream.LimitsPolicy:
		return refuse(fmt.Sprintf("has %s retention, which deletes what was read; want limits%s", have.Retention, elsewhere))
	case have.Storage != jetstream.FileStorage:
		return refuse("is stored in memory, want file" + elsewhere)
	case have.NoAck:
		return refuse("does not acknowledge messages (no_ack)" + elsewhere)
	case have.PersistMode == jetstream.AsyncPersistMode:
		return refuse("acknowledges messages before they are on disk (persist_mode async)" + elsewhere)
	case have.SubjectTransform != nil:
		return refuse("transforms subjects, so a second copy cannot be told by its subject" + elsewhere)
	case have.DiscardNewPerSubject:
		return refuse("has discard_new_per_subject, which stalls streams that source from it; unset it")
	case have.Discard == jetstream.DiscardOld && (have.MaxBytes > 0 || have.MaxMsgs > 0):
		return refuse(fmt.Sprintf("has a limit and discards old messages when it is full, so events would be lost in silence; run: nats stream edit %s --discard new", want.Name))
	}

	next := have
	changed := false
	set := func(needed bool, apply func()) {
		if needed {
			apply()
			changed = true
		}
	}
	set(!slices.Contains(have.Subjects, want.Subjects[0]), func() {
		next.Subjects = append(slices.Clone(have.Subjects), want.Subjects...)
		notes = append(notes, "stream gets another subject; an event that is in it under an old one is known only within the duplicate window")
	})
	set(have.Discard != want.Discard, func() { next.Discard = want.Discard })
	set(have.Replicas < want.Replicas, func() { next.Replicas = want.Replicas })
	set(!have.AllowDirect, func() { next.AllowDirect = true })
	set(!have.AllowAtomicPublish, func() { next.AllowAtomicPublish = true })

	// No maximum age is the widest. An age that was set by hand stays where
	// INGRESS_MAX_AGE is not set, for it may be there for privacy.
	switch {
	case want.MaxAge > 0 && have.MaxAge > 0 && have.MaxAge < want.MaxAge:
		set(true, func() { next.MaxAge = want.MaxAge })
	case want.MaxAge > 0 && have.MaxAge != want.MaxAge:
		notes = append(notes, fmt.Sprintf("stream keeps events longer than INGRESS_MAX_AGE; to shorten it, run: nats stream edit %s --max-age %s", want.Name, want.MaxAge))
	}
	duplicates := window(want.Duplicates, next.MaxAge)
	if duplicates < want.Duplicates {
		notes = append(notes, fmt.Sprintf("duplicate window is limited to the stream's maximum age, %s", next.MaxAge))
	}
	set(have.Duplicates < duplicates, func() { next.Duplicates = duplicates })

	if have.DenyDelete {
		notes = append(notes, "stream denies deletion, so an interview cannot be erased from it")
	}
	if !changed {
		return nil, notes, nil
	}
	return &next, notes, nil
}

// conflict tells what a person must settle from what may pass by itself.
func conflict(stream, doing string, err error) error {
	if err == nil {
		return nil
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || api.Code == 503 || api.ErrorCode == errCodeNoPeers {
		return fmt.Errorf("stream %s: %s: %w", stream, doing, err)
	}
	return &ConflictError{stream, fmt.Sprintf("%s: the broker refuses: %s (%d)", doing, api.Description, api.ErrorCode)}
}
