package held

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// Requeue turns the webhooks into events, as far as this version understands them,
// and writes a line for each to out. It returns an error if one stays. A dry run
// changes nothing.
func (c *Chosen) Requeue(ctx context.Context, out io.Writer, dryRun bool) error {
	var publisher *publish.Publisher
	if !dryRun {
		var err error
		if publisher, err = OpenPublisher(ctx, c.Connection); err != nil {
			return err
		}
		defer publisher.Close()
	}
	deleted, err := c.requeue(ctx, publisher, out)
	return errors.Join(err, erasure.Settle(ctx, c.Connection, io.Discard, map[schema.Kind][]uint64{schema.KindQuarantine: deleted}))
}

// Discard overwrites and deletes the webhooks, and writes the outcome to out.
func (c *Chosen) Discard(ctx context.Context, out io.Writer) error {
	var deleted []uint64
	for i, k := range c.List {
		if err := c.delete(ctx, k); err != nil {
			return fmt.Errorf("%d of %d were discarded: %w", i, len(c.List), err)
		}
		deleted = append(deleted, k.Sequence)
	}
	fmt.Fprintf(out, "discarded: %d\n", len(c.List))
	return erasure.Settle(ctx, c.Connection, out, map[schema.Kind][]uint64{schema.KindQuarantine: deleted})
}

func (c *Chosen) delete(ctx context.Context, k Kept) error {
	return c.Eraser().Delete(ctx, publish.Copy{Kind: schema.KindQuarantine, Subject: k.Subject, Sequence: k.Sequence})
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
		Options:     []nats.Option{broker.NewCredentials(broker.Endpoint(c.Settings)).Option},
		Stream:      c.Settings.Stream,
		Subject:     c.Settings.Subject,
		Timeout:     c.Settings.PublishTimeout,
		KeepStreams: true,
	})
}

// requeue returns the sequences of the webhooks that it has deleted. publisher is nil
// for a dry run.
func (c *Chosen) requeue(ctx context.Context, publisher *publish.Publisher, out io.Writer) (deleted []uint64, err error) {
	stayed := 0
	for _, k := range c.List {
		if ctx.Err() != nil {
			return deleted, context.Cause(ctx)
		}
		outcome, err := c.requeueOne(ctx, publisher, k)
		if broken, ok := errors.AsType[*publish.Error](err); ok && broken.Reason() != "refused" {
			return deleted, fmt.Errorf("storing %s: %w; run it again when the broker accepts events", k.ID, err)
		}
		if err != nil {
			stayed++
			fmt.Fprintf(out, "stays %s: %v\n", k.ID, err)
			continue
		}
		fmt.Fprintln(out, outcome, k.ID)
		if publisher != nil {
			deleted = append(deleted, k.Sequence)
		}
	}
	if stayed > 0 {
		return deleted, fmt.Errorf("%d of %d stay in the quarantine", stayed, len(c.List))
	}
	return deleted, nil
}

// requeueOne stores the event that a webhook has become, and only then deletes the
// webhook. It returns what became of it, or why it stays.
func (c *Chosen) requeueOne(ctx context.Context, publisher *publish.Publisher, k Kept) (outcome string, err error) {
	if k.erased {
		return "", errors.New("it is being erased; run erase again")
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
	if err := c.delete(ctx, k); err != nil {
		return "", fmt.Errorf("it is stored, as %s %d, but: %w; run it again", receipt.Stream, receipt.Sequence, err)
	}
	outcome = "stored"
	if receipt.Duplicate {
		outcome = "duplicate"
	}
	return fmt.Sprintf("%s %s %d", outcome, receipt.Stream, receipt.Sequence), nil
}
