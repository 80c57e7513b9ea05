package subscribe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// handle calls the handler for a message, and acknowledges it, dead-letters it,
// or leaves it to be delivered again.
func (d *dispatcher) handle(ctx context.Context, msg jetstream.Msg, m Message) {
	err := d.attempt(ctx, m)
	if err == nil {
		d.confirm(ctx, msg, m)
		return
	}
	log := d.Logger.With("consumer", d.Durable, "id", m.ID, "sequence", m.Sequence, "delivery", m.Deliveries, "error", err)
	pause := d.pause(m.Deliveries)
	if m.Deliveries >= uint64(d.Attempts) || errors.Is(err, ErrPermanent) {
		buried := d.bury(ctx, m, err)
		if buried == nil {
			log.Error("event is given up; it is kept as a dead letter")
			d.confirm(ctx, msg, m)
			return
		}
		log.Error("event cannot be kept as a dead letter; it comes again", "why", buried, "after", pause)
	} else {
		log.Warn("event was not handled; it comes again", "after", pause)
	}
	_ = msg.NakWithDelay(pause) // if it is lost, AckWait sees to it
}

// attempt calls the handler once. What is no event never will be one, and what
// has come too often may be what ends the process each time.
func (d *dispatcher) attempt(ctx context.Context, m Message) (err error) {
	ctx, span := d.startSpan(ctx, m)
	defer func() { endSpan(span, err) }()
	if m.Deliveries > uint64(d.Attempts) {
		return fmt.Errorf("was delivered %d times without being handled: %w", m.Deliveries, ErrPermanent)
	}
	if m.Erased() {
		s, err := schema.ParseSubject(m.Subject)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrPermanent)
		}
		return d.Erasure(ctx, s, m)
	}
	event, err := m.Event()
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrPermanent)
	}
	return d.Event(ctx, event, m)
}

// confirmTimeout bounds one try to acknowledge a message.
const confirmTimeout = 5 * time.Second

// confirm acknowledges a message and waits for the broker's word that it has
// noted it. Without that word the message is delivered again, and the handler
// knows it by its ID.
func (d *dispatcher) confirm(ctx context.Context, msg jetstream.Msg, m Message) {
	var err error
	for range 3 {
		trying, cancel := context.WithTimeout(ctx, confirmTimeout)
		err = msg.DoubleAck(trying)
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		d.Logger.Warn("acknowledgement was not confirmed; the event may come again", "consumer", d.Durable, "id", m.ID, "sequence", m.Sequence, "error", err)
	}
}
