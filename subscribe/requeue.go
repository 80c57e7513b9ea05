package subscribe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A request to requeue a dead letter is a message in the dead-letter stream, beside the
// letter (see [schema.Requeue]). A second dispatcher reads those of its consumer, through
// a durable consumer of the same name, and handles the events of the letters as the
// first one handles events. The request is handled when it is deleted, and its letter
// before it: until then it is redelivered. A request whose letter is gone, or has been
// replaced, is only deleted.

// requeueRetry is the time between attempts to read requests, while that fails.
const requeueRetry = 10 * time.Second

// runRequeued handles requeued dead letters, with the workers of d, until ctx ends.
// An error of reading them is logged, and does not end the consumer: the user may lack a
// permission that consumers did not need before.
func (d *dispatcher) runRequeued(ctx context.Context) error {
	nc := d.source.JetStream.Conn()
	for logged := ""; ; {
		before := nc.LastError()
		r, err := d.requeueDispatcher(ctx)
		if err == nil {
			logged = ""
			if err = r.run(ctx); ctx.Err() != nil {
				return err
			}
		}
		last := nc.LastError()
		denied := last != before && errors.Is(last, nats.ErrPermissionViolation)
		if denied {
			err = last
		}
		if text := err.Error(); ctx.Err() == nil && text != logged {
			d.cfg.Logger.Warn("requeued dead letters are not read; if a permission is missing, deploy/nats/users.conf has it", "consumer", d.cfg.Durable, "error", err)
			logged = text
		}
		if denied { // which each attempt would repeat in the log of the broker
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(requeueRetry):
		}
	}
}

// requeueDispatcher returns the dispatcher of the requests to the consumer of d.
func (d *dispatcher) requeueDispatcher(ctx context.Context) (*dispatcher, error) {
	dead, err := d.source.open(ctx, schema.KindDead)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", d.source.stream(schema.KindDead), err)
	}
	c := d.cfg
	c.Filter, c.Since = schema.Filter{}, time.Time{}
	c.Subject = schema.RequeueFilter(d.source.subject(), c.Durable)
	c.Logger = slog.New(slog.DiscardHandler) // it would warn that no message matches
	durable, err := d.source.durable(ctx, dead.CachedInfo(), c)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", d.source.stream(schema.KindDead), err)
	}
	return newDispatcher(d.cfg, d.source, schema.KindDead, d.stream, durable, d.workers), nil
}

// requeued returns the event of the dead letter that a request names, and false if there
// is none to handle: the letter was discarded, replaced or erased.
//
// The event is that of the event stream, or, if it is no longer there, the letter.
func (d *dispatcher) requeued(ctx context.Context, request Message) (event Message, ok bool, err error) {
	event = request
	sequence := schema.RequeuedLetter(request.Header)
	if sequence == 0 {
		return event, false, nil
	}
	dead, err := d.source.open(ctx, schema.KindDead)
	if err != nil {
		return event, false, err
	}
	letter, err := dead.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return event, false, nil
	}
	if err != nil {
		return event, false, err
	}
	if consumer, id, err := schema.ParseDeadLetter(letter.Subject); err != nil || consumer != d.cfg.Durable || id != request.ID || schema.IsSettled(letter.Header) {
		return event, false, nil // another message, in a stream that was recreated
	}
	event.letter = letter.Sequence
	event.Subject, event.Sequence = letter.Header.Get(schema.HeaderDeadSubject), schema.DeadSequence(letter.Header)
	event.Header, event.Data, event.Time = letter.Header, letter.Data, letter.Time
	last, err := dead.GetLastMsgForSubject(ctx, letter.Subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // discarded in between
		return event, false, nil
	case err != nil:
		return event, false, err
	case last.Sequence != letter.Sequence && schema.DeadSequence(last.Header) == event.Sequence: // it has replaced the letter
		return event, false, nil
	case schema.IsSettled(last.Header) && !event.Erased(): // an erasure has not deleted the letter yet
		return event, false, nil
	}
	stored, err := d.stream.GetLastMsgForSubject(ctx, event.Subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // removed at its maximum age
	case err != nil:
		return event, false, err
	case schema.IsTombstone(stored.Header) && !event.Erased():
		return event, false, nil
	case stored.Sequence == event.Sequence:
		event.Header, event.Data, event.Time = stored.Header, stored.Data, stored.Time
	}
	event.Time, event.Size = event.Time.UTC(), len(event.Data)
	event.Organization = schema.Organization(event.Header)
	return event, true, nil
}

// settle deletes a request that was handled, and the letter before it.
func (d *dispatcher) settle(ctx context.Context, request, event Message) error {
	dead, err := d.source.open(ctx, schema.KindDead)
	if err != nil {
		return err
	}
	for _, sequence := range [...]uint64{event.letter, request.Sequence} {
		if sequence == 0 {
			continue
		}
		if err := dead.SecureDeleteMsg(ctx, sequence); err != nil {
			if _, found := dead.GetMsg(ctx, sequence); !errors.Is(found, jetstream.ErrMsgNotFound) {
				return fmt.Errorf("deleting message %d of stream %s: %w", sequence, d.source.stream(schema.KindDead), err)
			}
		}
	}
	return nil
}
