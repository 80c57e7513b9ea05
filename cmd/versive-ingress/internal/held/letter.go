package held

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

const elsewhere = "it was given up at an edge; requeue it there, where its consumer is"

func (k Kept) isForwarded() bool { return k.Header.Get(schema.HeaderDeadForwarded) != "" }

// letterRequeuer returns what requeues dead letters: it stores a request to the
// consumer, once. The consumer deletes the letter.
func (c *Chosen) letterRequeuer(ctx context.Context, dryRun bool) (requeuer, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	dead, err := c.Eraser().Erasable(ctx, schema.KindDead) // otherwise the consumer could not delete it
	if err != nil {
		return nil, err
	}
	unread := make(map[string]error) // by consumer
	return func(ctx context.Context, k Kept) (outcome string, stays, err error) {
		ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
		defer cancel()
		consumer, id, err := schema.ParseDeadLetter(k.Subject)
		switch {
		case err != nil:
			return "", err, nil
		case k.erased:
			return "", errors.New(beingErased), nil
		case k.isForwarded():
			return "", errors.New(elsewhere), nil
		}
		if _, ok := unread[consumer]; !ok {
			_, err := dead.Consumer(ctx, consumer)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrInvalidConsumerName) {
				return "", nil, fmt.Errorf("consumer %s: %w", consumer, err)
			}
			if err != nil {
				err = fmt.Errorf("consumer %s does not read requeued dead letters; run it with this version of subscribe, and with the permissions in deploy/nats/users.conf", consumer)
				if _, gone := c.JetStream.Consumer(ctx, c.Settings.Stream, consumer); errors.Is(gone, jetstream.ErrConsumerNotFound) {
					err = fmt.Errorf("there is no consumer %s any more; run its program, which creates it, or discard the dead letter", consumer)
				}
			}
			unread[consumer] = err
		}
		if err := unread[consumer]; err != nil {
			return "", err, nil
		}
		switch {
		case dryRun && k.request > 0:
			return "requeued before", nil, nil
		case dryRun:
			return "would be requeued", nil, nil
		}
		before, err := c.request(ctx, dead, schema.Requeue(consumer, id, k.Sequence), k.Sequence)
		if err != nil {
			return "", nil, fmt.Errorf("requeuing %s: %w; run it again", k.ID, err)
		}
		if before {
			return "requeued before", nil, nil
		}
		return "requeued", nil, nil
	}, nil
}

// request stores a request to requeue the letter with a sequence, unless that is stored,
// and reads it back: another stream of this name may have replied, across a leaf node
// connection.
func (c *Chosen) request(ctx context.Context, dead jetstream.Stream, m schema.Message, letter uint64) (before bool, err error) {
	name := schema.KindDead.Stream(c.Settings.Stream)
	msg := &nats.Msg{Subject: m.Subject(c.Settings.Subject), Header: m.Header}
	msg.Header.Set(jetstream.ExpectedStreamHeader, name)
	for ack := (*jetstream.PubAck)(nil); ; {
		last, err := publish.LastMessage(ctx, dead, msg.Subject)
		switch {
		case err != nil:
			return false, err
		case schema.RequeuedLetter(last.Header) == letter:
			return ack == nil, nil
		}
		if ack != nil {
			// The consumer may have handled it already.
			if _, err := dead.GetMsg(ctx, letter); errors.Is(err, jetstream.ErrMsgNotFound) {
				return false, nil
			}
			return false, fmt.Errorf("the request was acknowledged by JetStream domain %q, but is not in stream %s", ack.Domain, name)
		}
		// The last one is for another letter of this event.
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.Sequence, 10))
		ack, err = c.JetStream.PublishMsg(ctx, msg)
		if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			continue // another requeue has stored one in between
		}
		if err != nil {
			return false, err
		}
	}
}
