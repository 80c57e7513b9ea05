package subscribe

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// EnsureDeadLetters creates the dead-letter stream, as Consume does.
func (s Source) EnsureDeadLetters(ctx context.Context) error {
	events, err := s.open(ctx, schema.KindEvent)
	if err != nil {
		return err
	}
	return s.ensureDeadLetters(ctx, events.CachedInfo().Config)
}

// ensureDeadLetters creates the dead-letter stream if it does not exist, with the
// replicas and the maximum age of the event stream. It leaves the age of
// an existing one alone: the ingress changes it, and a consumer may lack the permission.
// A stream that another ingress uses for something else is an error.
func (s Source) ensureDeadLetters(ctx context.Context, events jetstream.StreamConfig) error {
	name := s.stream(schema.KindDead)
	stream, err := s.JetStream.Stream(ctx, name)
	if err == nil {
		err = schema.KindDead.CheckOwner(events.Name, stream.CachedInfo().Config.Metadata)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		config := jetstream.StreamConfig{
			Name:        name,
			Description: "Events that a consumer has given up on",
			Subjects:    []string{schema.KindDead.Prefix(s.subject()) + ".>"},
			Storage:     jetstream.FileStorage,
			Discard:     jetstream.DiscardNew,
			Replicas:    events.Replicas,
			MaxAge:      events.MaxAge,
			AllowDirect: true,
			Metadata:    schema.KindDead.Metadata(events.Name),
		}
		_, err = s.JetStream.CreateStream(ctx, config)
		if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == errCodeMaxBytesRequired {
			config.MaxBytes = events.MaxBytes // which the account required as well
			_, err = s.JetStream.CreateStream(ctx, config)
		}
		if errors.Is(err, nats.ErrNoResponders) { // to this request alone, so waiting would not help
			return fmt.Errorf("dead-letter stream %s does not exist, and this user may not create it; ask the operator to create it, by the command in deploy/nats/users.conf", name)
		}
	}
	if err != nil {
		return fmt.Errorf("dead-letter stream %s: %w", name, err)
	}
	return nil
}

// deadLetter stores a message as a dead letter, once, before it is acknowledged. If the
// message is that of a requeued letter, the new one is stored after it.
func (d *dispatcher) deadLetter(ctx context.Context, m Message, reason error) error {
	dead, err := d.source.open(ctx, schema.KindDead)
	if err != nil {
		return err
	}
	letter := schema.DeadLetter(schema.Dead{
		Consumer:   d.cfg.Durable,
		Reason:     reason.Error(),
		ID:         m.ID,
		Subject:    m.Subject,
		Sequence:   m.Sequence,
		Deliveries: m.Deliveries,
	}, m.Header, m.Data)
	header := nats.Header(letter.Header)
	msg := &nats.Msg{Subject: letter.Subject(d.source.subject()), Header: header, Data: letter.Data}

	// The expected sequence alone prevents a second copy of the letter. With a
	// message id, the broker would drop it as a duplicate of one that was deleted
	// recently.
	for ack := (*jetstream.PubAck)(nil); ; {
		stored, err := dead.GetLastMsgForSubject(ctx, msg.Subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			stored = &jetstream.RawStreamMsg{}
		case err != nil:
			return fmt.Errorf("looking the dead letter up: %w", err)
		case schema.DeadSequence(stored.Header) == m.Sequence && stored.Sequence != m.letter:
			// The erasure may have looked for dead letters before this one was stored.
			if erased, err := d.isErased(ctx, m); !erased {
				return err
			}
			return dead.SecureDeleteMsg(ctx, stored.Sequence)
		case schema.IsTombstone(stored.Header) && !m.Erased():
			return nil // the event was erased
		}
		// The event is acknowledged next, so the letter must be in the stream: another
		// stream of this name may have replied, across a leaf node connection.
		if ack != nil {
			return fmt.Errorf("dead letter on %s was acknowledged by JetStream domain %q, but is not in the stream", msg.Subject, ack.Domain)
		}
		if erased, err := d.isErased(ctx, m); erased || err != nil {
			return err
		}
		// The stored letter is the one that was requeued, which the caller deletes, or that
		// of the event, while m is its tombstone.
		header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(stored.Sequence, 10))
		if ack, err = d.source.JetStream.PublishMsg(ctx, msg); err != nil {
			return err
		}
		if name := d.source.stream(schema.KindDead); ack.Stream != name {
			return fmt.Errorf("subject %s belongs to stream %s, not %s", msg.Subject, ack.Stream, name)
		}
	}
}

// isErased reports whether the event of a message was erased while the message was in
// flight.
func (d *dispatcher) isErased(ctx context.Context, m Message) (bool, error) {
	if m.Erased() {
		return false, nil
	}
	last, err := d.stream.GetLastMsgForSubject(ctx, m.Subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // removed at its maximum age
		return false, nil
	}
	return err == nil && schema.IsTombstone(last.Header), err
}
