package held

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// Requeue turns the webhooks of list into events, as far as this version understands
// them, and writes a line for each to out. It returns an error if one stays. A dry
// run only writes.
func Requeue(ctx context.Context, c *broker.Connection, list []Kept, out io.Writer, dryRun bool) (err error) {
	r := requeuer{Connection: c, out: out}
	if !dryRun {
		if r.publisher, err = OpenPublisher(ctx, c); err != nil {
			return err
		}
		defer r.publisher.Close()
	}
	err = r.run(ctx, list)
	return errors.Join(err, erasure.Settle(ctx, c, io.Discard, map[schema.Kind][]uint64{schema.KindQuarantine: r.deleted}))
}

// Discard overwrites and deletes the webhooks of list, and writes what came of it
// to out.
func Discard(ctx context.Context, c *broker.Connection, list []Kept, out io.Writer) error {
	eraser := publish.Eraser{JetStream: c.JetStream, Stream: c.Settings.Stream}
	var deleted []uint64
	for i, k := range list {
		if err := eraser.Delete(ctx, k.copy()); err != nil {
			return fmt.Errorf("%d of %d were discarded: %w", i, len(list), err)
		}
		deleted = append(deleted, k.Sequence)
	}
	fmt.Fprintf(out, "discarded: %d\n", len(list))
	return erasure.Settle(ctx, c, out, map[schema.Kind][]uint64{schema.KindQuarantine: deleted})
}

// OpenPublisher opens a publisher that stores what is requeued. It leaves the streams
// as they are: how they must be is known to the ingress, whose settings may not
// all be set here.
func OpenPublisher(ctx context.Context, c *broker.Connection) (*publish.Publisher, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	for _, kind := range [...]schema.Kind{schema.KindEvent, schema.KindQuarantine} {
		name, subject := kind.Stream(c.Settings.Stream), kind.Prefix(c.Settings.Subject)+".>"
		stream, err := c.JetStream.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if !slices.Contains(stream.CachedInfo().Config.Subjects, subject) {
			return nil, fmt.Errorf("stream %s has the subjects %q, not %s; is INGRESS_SUBJECT that of the ingress?", name, stream.CachedInfo().Config.Subjects, subject)
		}
	}
	return publish.Open(ctx, publish.Config{
		URL:         broker.URL(c.Settings),
		Options:     broker.Options(c.Settings),
		Stream:      c.Settings.Stream,
		Subject:     c.Settings.Subject,
		Timeout:     c.Settings.PublishTimeout,
		KeepStreams: true,
	})
}

// A requeuer turns webhooks of the quarantine into events.
type requeuer struct {
	*broker.Connection
	publisher *publish.Publisher // nil for a dry run
	out       io.Writer
	deleted   []uint64 // sequences in the quarantine
}

func (r *requeuer) run(ctx context.Context, list []Kept) error {
	stayed := 0
	for _, k := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		outcome, err := r.requeueOne(ctx, k)
		var broken *publish.Error
		switch {
		case err == nil:
			fmt.Fprintln(r.out, outcome, k.ID)
			continue
		case errors.As(err, &broken) && broken.Reason() != "refused":
			return fmt.Errorf("storing %s: %w; run it again when the broker takes events", k.ID, err)
		}
		stayed++
		fmt.Fprintf(r.out, "stays %s: %v\n", k.ID, err)
	}
	if stayed > 0 {
		return fmt.Errorf("%d of %d stay in the quarantine", stayed, len(list))
	}
	return nil
}

var errBeingErased = errors.New("it is being erased; run erase again")

// requeueOne stores the event that a webhook has become, and only then removes
// the webhook. It returns what became of it, or why it stays.
func (r *requeuer) requeueOne(ctx context.Context, k Kept) (outcome string, err error) {
	if k.erased {
		return "", errBeingErased
	}
	body, err := Body(ctx, r.Connection, k.Sequence)
	if err != nil {
		return "", err
	}
	event, err := schema.Normalize(k.ID, body)
	if err != nil {
		return "", err
	}
	if r.publisher == nil {
		return "would be stored", nil
	}
	receipt, err := r.publisher.Publish(ctx, event)
	if err != nil {
		return "", err
	}
	eraser := publish.Eraser{JetStream: r.JetStream, Stream: r.Settings.Stream}
	if err := eraser.Delete(ctx, k.copy()); err != nil {
		return "", fmt.Errorf("it is stored, as %s %d, but: %w; run it again", receipt.Stream, receipt.Sequence, err)
	}
	r.deleted = append(r.deleted, k.Sequence)
	outcome = "stored"
	if receipt.Duplicate {
		outcome = "duplicate"
	}
	return fmt.Sprintf("%s %s %d", outcome, receipt.Stream, receipt.Sequence), nil
}
