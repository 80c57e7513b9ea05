package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func auditCommand() *cobra.Command {
	var acknowledge bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Find lost messages, and acknowledge losses",
		Long: `Read the three streams from end to end, compare the messages that they return
with those that they count, and list the losses that the ingress has reported: a
stream was deleted, ends before an acknowledged message, lacks messages that
were not erased, or counts messages that it cannot return.

For each stream, the number of messages that were read is printed; how many were
erased, each with a tombstone; how many were deleted otherwise, which is normal
in the quarantine and among the dead letters; and which sequences cannot be
read.

With --acknowledge, the ingress, doctor and the alert stop reporting the losses
that are printed, whether the ingress is running or not. The reports and the
acknowledgements are files in INGRESS_DATA_DIR: run audit on the machine of the
ingress, as its user.

With an external broker (INGRESS_NATS_URL), reports are only in the log and the
metrics of the ingress, and a restart of the ingress acknowledges them. Audit
then only reads the streams.

EXIT STATUS
  0  every message can be read, and every reported loss is acknowledged; with
     --acknowledge, everything was acknowledged
  1  a loss is not acknowledged, or something could not be checked or
     acknowledged`,
		Example: `  versive-ingress audit
  versive-ingress audit --acknowledge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := config.Read()
			if err != nil {
				return err
			}
			a := audit{dir: s.DataDir}
			if s.NATSURL != "" {
				a.dir = ""
				if acknowledge {
					return errors.New("--acknowledge requires the embedded broker: with INGRESS_NATS_URL the ingress keeps its reports in memory; restart it to acknowledge them")
				}
			}
			if err := a.readLosses(); err != nil {
				return err
			}
			unread := a.readStreams(cmd.Context())
			if unread != nil && !acknowledge {
				return unread
			}
			if err := a.print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if a.unknown != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "whether the ingress has reported losses is not known: %s\n", a.unknown)
			}
			if !acknowledge {
				return a.verdict()
			}
			if unread != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "the streams were not read: %v\n", unread)
			}
			if err := publish.Acknowledge(a.dir, a.losses, a.unreadable()); err != nil {
				return fmt.Errorf("nothing was acknowledged; run this as the user of the ingress and with its INGRESS_DATA_DIR: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&acknowledge, "acknowledge", false, "acknowledge the losses that are printed")
	return cmd
}

// An audit compares what streams return with what they count, and with what the
// ingress has reported.
type audit struct {
	dir     string // of the high-water marks; "" with an external broker
	unknown string // why the reports of the ingress are not known; "" if they are
	losses  []publish.Loss
	settled map[string]schema.Sequences // by stream: unreadable, and acknowledged
	streams []audited
}

// audited is what was read of a stream.
type audited struct {
	name                       string
	messages, erased, deleted  uint64
	unreadable, unacknowledged schema.Sequences
}

func (a *audit) readLosses() (err error) {
	if a.dir == "" {
		a.unknown = "with an external broker it is in the ingress's log and metrics"
		return nil
	}
	a.losses, a.settled, err = publish.ReadLosses(a.dir)
	if errors.Is(err, fs.ErrNotExist) { // the ingress never ran, or in an older version
		a.unknown = fmt.Sprintf("INGRESS_DATA_DIR=%s has no high-water marks; set it to that of the ingress", a.dir)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the high-water marks, as the user of the ingress and with its INGRESS_DATA_DIR: %w", err)
	}
	return nil
}

func (a *audit) readStreams(ctx context.Context) error {
	c, err := broker.Dial(ctx, "audit")
	if err != nil {
		return err
	}
	defer c.Close()
	for kind := range schema.KindDead + 1 {
		err := a.readStream(ctx, c, kind)
		if errors.Is(err, jetstream.ErrStreamNotFound) && kind == schema.KindDead {
			continue // no consumer has given up on anything
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *audit) readStream(ctx context.Context, c *broker.Connection, kind schema.Kind) error {
	r := audited{name: kind.Stream(c.Settings.Stream)}
	var copies []uint64 // that tombstones stand for
	for m, err := range c.Source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		if unreadable, ok := errors.AsType[*subscribe.UnreadableError](err); ok {
			r.unreadable = unreadable.Sequences
			break
		}
		if err != nil {
			return err
		}
		r.messages++
		copies = append(copies, publish.ErasedCopies(m.Header)...)
	}
	stream, err := c.JetStream.Stream(ctx, r.name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.name, err)
	}
	deleted := schema.SequencesOf(info.State.Deleted)
	r.deleted = deleted.Minus(schema.SequencesOf(copies)).Len()
	r.erased = deleted.Len() - r.deleted
	r.unacknowledged = r.unreadable.Minus(a.settled[r.name])
	a.streams = append(a.streams, r)
	return nil
}

func (a *audit) unreadable() map[string]schema.Sequences {
	all := make(map[string]schema.Sequences)
	for _, r := range a.streams {
		if r.unreadable.Len() > 0 {
			all[r.name] = r.unreadable
		}
	}
	return all
}

func (a *audit) print(w io.Writer) error {
	table := terminal.NewTable(w)
	fmt.Fprintln(table, "STREAM\tMESSAGES\tERASED\tDELETED OTHERWISE\tUNREADABLE")
	for _, r := range a.streams {
		unreadable := "none"
		if r.unreadable.Len() > 0 {
			unreadable = fmt.Sprintf("%d: %v", r.unreadable.Len(), r.unreadable)
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", r.name, r.messages, r.erased, r.deleted, unreadable)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, l := range a.losses {
		fmt.Fprintf(w, "reported %s: stream %s %v: %s\n", l.Time.Format(time.RFC3339), l.Stream, l.Problem, lostMessages(l.Sequences))
	}
	return nil
}

// lostMessages returns how many messages are lost, and which.
func lostMessages(s schema.Sequences) string {
	if s.Len() == 0 {
		return "it had no messages"
	}
	return fmt.Sprintf("%s, sequences %v", terminal.Plural(s.Len(), "message", "messages"), s)
}

func (a *audit) verdict() error {
	unreadable := uint64(0)
	for _, r := range a.streams {
		unreadable += r.unacknowledged.Len()
	}
	if len(a.losses) == 0 && unreadable == 0 {
		return nil
	}
	remedy := "see docs/operations.md, Losses"
	if a.dir != "" {
		remedy += "; then acknowledge them with: versive-ingress audit --acknowledge"
	}
	return fmt.Errorf("unacknowledged: %s, %s that cannot be read; %s",
		terminal.Plural(len(a.losses), "reported loss", "reported losses"), terminal.Plural(unreadable, "message", "messages"), remedy)
}
