package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

func requeueCommand() *cobra.Command {
	var (
		which  choice
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "requeue ID… | --all",
		Short: "Turn what is understood by now into events",
		Long: `Put webhooks of the quarantine through the schema of this version. What it
understands is stored as an event under the id that it came with, once, as if
it came today, and then removed from the quarantine. An interruption is settled
by running it again.

What is still not understood stays.

EXIT STATUS
  0  nothing stayed
  1  something stayed, or an error prevented it`,
		Example: `  versive-ingress quarantine requeue --all --dry-run
  versive-ingress quarantine requeue --all --reason unsupported_type
  versive-ingress quarantine requeue msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.ids = args
			if err := which.check(); err != nil {
				return err
			}
			c, err := broker.Dial(cmd.Context(), "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := choose(cmd.Context(), c, which)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to requeue")
				return nil
			}
			r := requeuer{Connection: c, out: cmd.OutOrStdout()}
			if !dryRun {
				if r.publisher, err = openPublisher(cmd.Context(), c); err != nil {
					return err
				}
				defer r.publisher.Close()
			}
			err = r.run(cmd.Context(), list)
			return errors.Join(err, erasure.Settle(cmd.Context(), c, io.Discard, map[schema.Kind][]uint64{schema.KindQuarantine: r.deleted}))
		},
	}
	which.flags(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would become of each")
	return cmd
}

// openPublisher opens a publisher that stores what is requeued. It leaves the streams
// as they are: how they must be is known to the ingress, whose settings may not
// all be set here.
func openPublisher(ctx context.Context, c *broker.Connection) (*publish.Publisher, error) {
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

func (r *requeuer) run(ctx context.Context, list []kept) error {
	stayed := 0
	for _, k := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		outcome, err := r.requeue(ctx, k)
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

// requeue stores the event that a webhook has become, and only then removes
// the webhook. It returns what became of it, or why it stays.
func (r *requeuer) requeue(ctx context.Context, k kept) (outcome string, err error) {
	if k.erased {
		return "", errBeingErased
	}
	body, err := readBody(ctx, r.Connection, k.Sequence)
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

func discardCommand() *cobra.Command {
	var (
		which choice
		yes   bool
	)
	cmd := &cobra.Command{
		Use:   "discard ID… | --all",
		Short: "Delete for good what will never be an event",
		Long: `Overwrite and delete webhooks of the quarantine. Nothing brings them back but a
resend, which is stored again once the duplicate window has forgotten the id.

Shows what it would delete and asks on the terminal; --yes does not ask. As erase
does, it prints whether the overwriting is verified: run it on the machine of the
ingress, as its user or as root, and with its INGRESS_DATA_DIR.

EXIT STATUS
  0  all were deleted
  1  something may be left, or nobody confirmed; the error says what to do`,
		Example: `  versive-ingress quarantine discard msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress quarantine discard --all --reason malformed --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.ids = args
			if err := which.check(); err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := broker.Dial(ctx, "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := choose(ctx, c, which)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to discard")
				return nil
			}
			if err := printTable(cmd.OutOrStdout(), list); err != nil {
				return err
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Delete %s for good?", terminal.Plural(len(list), "webhook", "webhooks"))); err != nil {
					return err
				}
			}
			eraser := publish.Eraser{JetStream: c.JetStream, Stream: c.Settings.Stream}
			var deleted []uint64
			for i, k := range list {
				if err := eraser.Delete(ctx, k.copy()); err != nil {
					return fmt.Errorf("%d of %d were discarded: %w", i, len(list), err)
				}
				deleted = append(deleted, k.Sequence)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "discarded: %d\n", len(list))
			return erasure.Settle(ctx, c, cmd.ErrOrStderr(), map[schema.Kind][]uint64{schema.KindQuarantine: deleted})
		},
	}
	which.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
