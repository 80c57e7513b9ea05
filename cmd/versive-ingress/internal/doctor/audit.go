package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Audit reads the streams from end to end, and writes to out what they hold and the
// losses that the ingress has reported, to notes what could not be read. It returns an
// error if a loss is not acknowledged; with acknowledge, it acknowledges them instead.
func Audit(ctx context.Context, acknowledge bool, out, notes io.Writer) error {
	s, err := config.Read()
	if err != nil {
		return err
	}
	losses, settled, err := publish.ReadLosses(s.DataDir)
	unknown := ""
	switch {
	case s.NATSURL != "" && acknowledge:
		return errors.New("--acknowledge requires the embedded broker: with INGRESS_NATS_URL the ingress keeps its reports in memory; restart it to acknowledge them")
	case s.NATSURL != "":
		losses, settled, unknown = nil, nil, "with an external broker, its log and metrics have the reports"
	case errors.Is(err, fs.ErrNotExist):
		unknown = fmt.Sprintf("INGRESS_DATA_DIR=%s has no high-water marks; set it to that of the ingress", s.DataDir)
	case err != nil:
		return fmt.Errorf("reading the high-water marks, as the user of the ingress and with its INGRESS_DATA_DIR: %w", asOwner(err, "audit"))
	}
	unreadable, err := auditStreams(ctx, out)
	if err != nil {
		if !acknowledge {
			return err
		}
		fmt.Fprintf(notes, "the streams were not read: %v\n", err)
	}
	if unknown != "" {
		fmt.Fprintf(notes, "whether the ingress has reported losses is not known: %s\n", unknown)
	}
	for _, l := range losses {
		fmt.Fprintf(out, "reported %s: %s\n", l.Time.Format(time.RFC3339), describe(l))
	}
	if acknowledge {
		if err := publish.Acknowledge(s.DataDir, losses, unreadable); err != nil {
			return fmt.Errorf("nothing was acknowledged; run this as the user of the ingress and with its INGRESS_DATA_DIR: %w", asOwner(err, "audit --acknowledge"))
		}
		return nil
	}
	n := uint64(0)
	for name, sequences := range unreadable {
		n += sequences.Minus(settled[name]).Len()
	}
	switch {
	case len(losses) > 0 || n > 0:
		return fmt.Errorf("unacknowledged: %s, %s that cannot be read; see Losses in docs/operations.md for what to do and how to acknowledge them",
			terminal.Plural(len(losses), "reported loss", "reported losses"), terminal.Plural(n, "message", "messages"))
	case unknown != "" && s.NATSURL == "":
		return errors.New("the streams have no loss, but the reports of the ingress were not read")
	}
	return nil
}

// auditStreams writes a table of the streams, and returns the messages that they
// count and cannot return.
func auditStreams(ctx context.Context, out io.Writer) (unreadable map[string]schema.Sequences, err error) {
	c, err := broker.Dial(ctx, "audit")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	unreadable = make(map[string]schema.Sequences)
	table := terminal.NewTable(out)
	fmt.Fprintln(table, "STREAM\tMESSAGES\tERASED\tDELETED OTHERWISE\tUNREADABLE")
	for _, kind := range []schema.Kind{schema.KindEvent, schema.KindQuarantine, schema.KindDead} {
		name, messages, lost := kind.Stream(c.Settings.Stream), 0, "none"
		var copies []uint64 // that were erased: a tombstone stands for each
		for m, err := range c.Source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
			u, isUnreadable := errors.AsType[*subscribe.UnreadableError](err)
			switch {
			case isUnreadable:
				unreadable[name], lost = u.Sequences, fmt.Sprintf("%d: %v", u.Sequences.Len(), u.Sequences)
			case kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound):
				return unreadable, table.Flush() // no consumer has created it yet
			case err != nil:
				return unreadable, err
			default:
				messages++
				copies = append(copies, publish.ErasedCopies(m.Header)...)
			}
		}
		var info *jetstream.StreamInfo
		stream, err := c.JetStream.Stream(ctx, name)
		if err == nil {
			info, err = stream.Info(ctx, jetstream.WithDeletedDetails(true))
		}
		if err != nil {
			return unreadable, fmt.Errorf("stream %s: %w", name, err)
		}
		erased := schema.SequencesOf(copies)
		otherwise := schema.SequencesOf(info.State.Deleted).Minus(erased).Len()
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", name, messages, erased.Len(), otherwise, lost)
	}
	return unreadable, table.Flush()
}
