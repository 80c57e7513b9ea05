package held

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// A requeuer requeues one message. It returns the outcome, or why the message stays; an
// error is one that the next message would meet as well.
type requeuer func(ctx context.Context, k Kept) (outcome string, stays, err error)

// Requeue turns webhooks into events, as far as this version understands them, or has
// their consumers handle dead letters once more. It writes a line for each to out, and
// returns an error if one stays. A dry run changes nothing.
func (c *Chosen) Requeue(ctx context.Context, out io.Writer, dryRun bool) error {
	if c.Kind == schema.KindDead {
		requeue, err := c.letterRequeuer(ctx, dryRun)
		if err != nil {
			return err
		}
		return c.requeue(ctx, requeue, out)
	}
	var publisher *publish.Publisher
	if !dryRun {
		err := c.CheckDelete(ctx, c.Kind)
		if err == nil {
			publisher, err = OpenPublisher(ctx, c.Connection)
		}
		if err != nil {
			return err
		}
		defer publisher.Close()
	}
	var deleted []uint64
	err := c.requeue(ctx, func(ctx context.Context, k Kept) (string, error, error) {
		outcome, err := c.requeueWebhook(ctx, publisher, k)
		broken, ok := errors.AsType[*publish.Error](err)
		switch {
		case err == nil && publisher != nil:
			deleted = append(deleted, k.Sequence)
		case ok && broken.Reason() != "refused", err != nil && c.NC.IsClosed():
			return "", nil, fmt.Errorf("requeuing %s: %w; run it again", k.ID, err)
		}
		return outcome, err, nil
	}, out)
	return errors.Join(err, c.settle(ctx, io.Discard, deleted))
}

func (c *Chosen) requeue(ctx context.Context, requeue requeuer, out io.Writer) error {
	stayed := 0
	for _, k := range c.List {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		outcome, stays, err := requeue(ctx, k)
		name := k.ID
		if c.Kind == schema.KindDead {
			name = k.consumer() + " " + k.ID
		}
		name = terminal.Line(name)
		switch {
		case err != nil:
			return err
		case stays != nil:
			stayed++
			fmt.Fprintf(out, "stays %s: %v\n", name, stays)
		default:
			fmt.Fprintln(out, outcome, name)
		}
	}
	if stayed > 0 {
		return fmt.Errorf("%d of %d stay %s", stayed, len(c.List), placeOf(c.Kind))
	}
	return nil
}

// Discard overwrites and deletes the messages, and writes the outcome to out. A dead
// letter that was requeued is not handled any more, unless that has begun.
func (c *Chosen) Discard(ctx context.Context, out io.Writer) error {
	if err := c.CheckDelete(ctx, c.Kind); err != nil {
		return err
	}
	var deleted []uint64
	for i, k := range c.List {
		for _, sequence := range []uint64{k.Sequence, k.request} {
			if sequence == 0 {
				continue
			}
			if err := c.delete(ctx, k, sequence); err != nil {
				err = fmt.Errorf("%d of %d were discarded: %w", i, len(c.List), err)
				return errors.Join(err, c.settle(ctx, out, deleted))
			}
			deleted = append(deleted, sequence)
		}
	}
	fmt.Fprintf(out, "discarded: %d\n", len(c.List))
	return c.settle(ctx, out, deleted)
}

// settle makes the deletion of messages durable; see [erasure.Settle].
func (c *Chosen) settle(ctx context.Context, out io.Writer, deleted []uint64) error {
	_, err := erasure.Settle(ctx, c.Connection, out, map[schema.Kind][]uint64{c.Kind: deleted})
	return err
}

// delete overwrites and deletes a message. A webhook leaves a tombstone: a resend is not
// kept again, and where streams are forwarded, copies at the hub and at the other edges
// follow. A dead letter must not: its consumer would take the event for erased.
func (c *Chosen) delete(ctx context.Context, k Kept, sequence uint64) error {
	target := publish.Copy{Kind: c.Kind, Subject: k.Subject, Sequence: sequence}
	if c.Kind == schema.KindQuarantine {
		return c.Eraser().Erase(ctx, target)
	}
	return c.Eraser().Delete(ctx, target)
}

// OpenPublisher opens a publisher for the requeued events. It leaves the streams as
// they are: their configuration follows from the settings of the ingress, not all of
// which may be set here.
func OpenPublisher(ctx context.Context, c *broker.Connection) (*publish.Publisher, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	for _, kind := range [...]schema.Kind{schema.KindEvent, schema.KindQuarantine} {
		name, subject := kind.Stream(c.Settings.Stream), kind.Prefix(c.Settings.Subject)+".>"
		stream, err := c.JetStream.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if subjects := stream.CachedInfo().Config.Subjects; !slices.Contains(subjects, subject) {
			return nil, fmt.Errorf("stream %s has the subjects %q, not %s; is INGRESS_SUBJECT that of the ingress?", name, subjects, subject)
		}
	}
	return publish.Open(ctx, publish.Config{
		URL:         broker.URL(c.Settings),
		Options:     []nats.Option{broker.NewCredentials(broker.Endpoint(c.Settings)).Option, broker.DenialHandler},
		Stream:      c.Settings.Stream,
		Subject:     c.Settings.Subject,
		Timeout:     c.Settings.PublishTimeout,
		KeepStreams: true,
		Durable: func(duplicate bool) error {
			if !duplicate { // the broker has synced the disk
				return nil
			}
			return checkWrites(context.Background(), c)
		},
	})
}

// checkWrites returns an error if a write to the event stream has failed. Until its restart
// the broker reports events of that write as duplicates, and rejects deletions with the
// error of the write.
func checkWrites(ctx context.Context, c *broker.Connection) error {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	stream, err := publish.OpenStream(ctx, c.JetStream, c.Settings.Stream)
	if err != nil {
		return err
	}
	// A replica would copy the stream anew because of the sequence.
	if config := stream.CachedInfo().Config; config.Replicas > 1 || config.DenyDelete {
		return nil
	}
	const healthy = "stream store EOF"
	if err = stream.SecureDeleteMsg(ctx, math.MaxUint64); err != nil && strings.Contains(err.Error(), healthy) {
		return nil
	}
	return err
}

// requeueWebhook stores the event that a webhook has become, and only then deletes the
// webhook. It returns what became of it, or why it stays. publisher is nil for a dry run.
func (c *Chosen) requeueWebhook(ctx context.Context, publisher *publish.Publisher, k Kept) (outcome string, err error) {
	if k.erased && publisher == nil {
		return "would be deleted", nil
	}
	if k.erased {
		return "deleted", c.delete(ctx, k, k.Sequence)
	}
	body, err := c.Body(ctx, k)
	if err != nil {
		return "", err
	}
	event, err := schema.Normalize(k.ID, body)
	if err != nil {
		return "", err
	}
	event = event.WithOrganization(k.Organization)
	if publisher == nil {
		return "would be stored", nil
	}
	receipt, err := publisher.Publish(ctx, event)
	if err != nil {
		return "", err
	}
	if err := c.delete(ctx, k, k.Sequence); err != nil {
		return "", fmt.Errorf("it is stored, as %s %d, but: %w", receipt.Stream, receipt.Sequence, err)
	}
	outcome = "stored"
	if receipt.Duplicate {
		outcome = "duplicate"
	}
	return fmt.Sprintf("%s %s %d", outcome, receipt.Stream, receipt.Sequence), nil
}
