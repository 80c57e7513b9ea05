package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/subscribe"
)

// resetLevel is the API level of nats-server 2.14, the first that can rewind a consumer
// in place.
const resetLevel = 4

const (
	resetAttempts = 20
	resetPause    = 50 * time.Millisecond
)

// A Rewind makes the broker deliver the events of a consumer again from a point on, and
// none before it.
type Rewind struct {
	consumer publish.ConsumerState
	first    uint64    // sequence of the first event
	stored   time.Time // that event
	again    uint64    // events that the consumer has received before
	recreate bool      // the consumer, because the broker cannot rewind it in place
}

// Plan finds what a rewind of a consumer to a time or a sequence, of which one is given,
// would do. It returns an error if the rewind would skip events that the consumer has
// not acknowledged, and nil if there is nothing to deliver again.
func (c *Consumers) Plan(ctx context.Context, name string, since time.Time, first uint64) (*Rewind, error) {
	state, err := c.Find(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &Rewind{consumer: state}
	var events uint64
	for _, subject := range state.Filters() {
		for m, err := range c.Source.Range(ctx, subscribe.Selection{Subject: subject, Since: since, First: first, HeadersOnly: true}) {
			if err != nil {
				return nil, err
			}
			events += 1 + m.Pending
			if r.first == 0 || m.Sequence < r.first {
				r.first, r.stored = m.Sequence, m.Time
			}
			break
		}
	}
	switch {
	case state.OldestSequence > 0 && (r.first == 0 || r.first > state.OldestSequence):
		return nil, fmt.Errorf("consumer %s has not acknowledged event %d yet, which a rewind to a later one would skip; rewind to --first %[2]d, or to an earlier one", name, state.OldestSequence)
	case events <= state.NumPending:
		return nil, nil
	}
	r.again = events - state.NumPending
	account, err := c.JetStream.AccountInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking up the version of the broker: %w", err)
	}
	r.recreate = account.API.Level < resetLevel || !r.permitted()
	return r, nil
}

// permitted reports whether the broker allows to rewind the consumer to the point: it
// does not rewind one to before its start.
func (r *Rewind) permitted() bool {
	switch c := r.consumer.Config; c.DeliverPolicy {
	case jetstream.DeliverAllPolicy:
		return true
	case jetstream.DeliverByStartSequencePolicy:
		return r.first >= c.OptStartSeq
	case jetstream.DeliverByStartTimePolicy:
		return !r.stored.Before(*c.OptStartTime)
	}
	return false
}

// String describes the rewind in the words of a question.
func (r *Rewind) String() string {
	text := fmt.Sprintf("Consumer %s will receive %s again, from sequence %d on, stored at %s.", r.consumer.Name,
		terminal.Plural(r.again, "event", "events"), r.first, r.stored.Format(time.RFC3339))
	if r.recreate {
		text += "\nThe broker cannot rewind it in place: it is deleted and created again with the same settings. Stop the\n" +
			"programs that read it before, and start them afterwards."
	}
	return text
}

// Do rewinds the consumer, which may be read meanwhile unless it has to be recreated.
func (c *Consumers) Do(ctx context.Context, r *Rewind) error {
	name := r.consumer.Name
	if r.recreate {
		return c.recreate(ctx, r)
	}
	// While nats-server 2.15 writes the position to its disk, a rewind to the first
	// sequence leaves the old one there, and the server reads it again. It then reports
	// events as acknowledged that it delivers, and would skip them after a restart.
	for range resetAttempts {
		after, err := c.stream.ResetConsumerToSequence(ctx, name, r.first)
		if err != nil {
			return fmt.Errorf("rewinding consumer %s: %w", name, err)
		}
		if after.AckFloor.Stream < r.first {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(resetPause):
		}
	}
	return fmt.Errorf("the broker has not stored the new position of consumer %s: rewind it again", name)
}

// recreate replaces the consumer by one that begins with the first event.
func (c *Consumers) recreate(ctx context.Context, r *Rewind) error {
	config := r.consumer.Config
	config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartSequencePolicy, r.first, nil
	if err := c.Delete(ctx, config.Durable); err != nil {
		return err
	}
	var err error
	if config.DeliverSubject != "" {
		_, err = c.stream.CreatePushConsumer(ctx, config)
	} else {
		_, err = c.stream.CreateConsumer(ctx, config)
	}
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("a program that reads consumer %s has created it anew meanwhile: stop all of them, and rewind again", config.Durable)
	}
	if err != nil {
		settings, _ := json.Marshal(config) // cannot fail: the broker sent it
		return fmt.Errorf("consumer %s was deleted, and cannot be created again: %w; its settings, for nats consumer add --config: %s", config.Durable, err, settings)
	}
	return nil
}
