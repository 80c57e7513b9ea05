// Package audit reads the streams from end to end, and holds what they contain against
// their state, the high-water marks of the ingress, and each other.
package audit

import (
	"bufio"
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
	"versive-ingress/publish/access"
	"versive-ingress/schema"
)

// Options are what Run does.
type Options struct {
	Acknowledge bool // acknowledge the losses that are reported and found
	JSON        bool // write one JSON object, which docs/commands.md describes

	Out   io.Writer // for the report
	Notes io.Writer // for the progress, and for what could not be read
}

// A Report is the outcome of an audit.
type Report struct {
	Streams  []*Stream      `json:"streams"`
	Reported []publish.Loss `json:"reported"` // by the ingress, and not acknowledged before
	// Unknown is why the reports of the ingress are not known, or "".
	Unknown string `json:"unknown,omitzero"`
}

// Run audits the streams of the broker that the settings in the environment name. It
// returns an error if there is a finding or a report that was not acknowledged.
func Run(ctx context.Context, o Options) error {
	s, err := config.Read()
	if err != nil {
		return err
	}
	report := Report{Streams: []*Stream{}, Reported: []publish.Loss{}}
	losses, record, err := publish.ReadLosses(s.DataDir)
	noMarks := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !noMarks:
		return fmt.Errorf("reading the high-water marks, as the user of the ingress and with its INGRESS_DATA_DIR: %w", access.AsOwner(err, "audit"))
	case s.NATSURL != "":
		report.Unknown = "with an external broker, its log and metrics have the reports"
	case noMarks:
		report.Unknown = fmt.Sprintf("INGRESS_DATA_DIR=%s has no high-water marks; set it to that of the ingress", s.DataDir)
	default:
		report.Reported = append(report.Reported, losses...)
	}
	unread := report.read(ctx, record, o.Notes)
	switch {
	case unread == nil:
	case !o.Acknowledge, s.NATSURL != "", ctx.Err() != nil:
		return unread
	case len(report.Reported) == 0:
		return fmt.Errorf("the streams were not read, and no loss is reported: %w", unread)
	}
	if err := report.print(o); err != nil {
		return err
	}
	if o.Acknowledge {
		found := make(map[string]publish.Found)
		for _, stream := range report.Streams {
			found[stream.Name] = stream.found
		}
		if err := publish.Acknowledge(s.DataDir, report.Reported, found); err != nil {
			return fmt.Errorf("nothing was acknowledged; run this as the user of the ingress and with its INGRESS_DATA_DIR: %w", access.AsOwner(err, "audit --acknowledge"))
		}
		fmt.Fprintf(o.Notes, "acknowledged: %s\n", report.unacknowledged())
	}
	if unread != nil {
		return fmt.Errorf("the reported losses are acknowledged, but the streams were not read: %w", unread)
	}
	return report.verdict(o.Acknowledge, noMarks && s.NATSURL == "")
}

// read reads the streams. The stream of the dead letters need not exist.
func (r *Report) read(ctx context.Context, record publish.Record, notes io.Writer) error {
	c, err := broker.Dial(ctx, "audit")
	if err != nil {
		return err
	}
	defer c.Close()
	progress, total := terminal.NewProgress(notes, terminal.IsTerminal(notes)), uint64(0)
	defer progress.Clear()
	var walks []*walk
	for kind := range schema.Kinds {
		stream, err := publish.OpenStream(ctx, c.JetStream, kind.Stream(c.Settings.Stream))
		if kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // no consumer has created it yet
		}
		if err != nil {
			return err
		}
		total += stream.CachedInfo().State.Msgs
		walks = append(walks, newWalk(c, kind, stream, progress))
	}
	progress.Expect(max(total, 1))
	for _, w := range walks {
		stream, err := w.run(ctx, record)
		if err != nil {
			return err
		}
		r.Streams = append(r.Streams, stream)
	}
	return nil
}

// print writes the report. An operator must have seen what is acknowledged, so it returns
// every error of Out.
func (r *Report) print(o Options) error {
	if o.JSON {
		return terminal.WriteJSON(o.Out, r)
	}
	out := bufio.NewWriter(o.Out)
	if len(r.Streams) > 0 {
		table := terminal.NewTable(out)
		fmt.Fprintln(table, "STREAM\tMESSAGES\tERASED\tDELETED\tFINDINGS")
		for _, s := range r.Streams {
			n, findings := uint64(0), "none"
			for _, f := range s.Findings {
				n += f.Messages
				findings = fmt.Sprint(n)
			}
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", s.Name, s.Messages, s.Erased, s.Deleted, findings)
		}
		table.Flush()
	}
	for _, s := range r.Streams {
		for _, f := range s.Findings {
			acknowledged := ""
			if f.Acknowledged {
				acknowledged = ", acknowledged"
			}
			fmt.Fprintf(out, "found: stream %s %v (%d, sequences %v)%s\n", s.Name, f.Problem, f.Messages, f.Sequences, acknowledged)
			for _, e := range f.Examples {
				fmt.Fprintf(out, "  %d: %s\n", e.Sequence, e.Detail)
			}
			if more := f.Messages - uint64(len(f.Examples)); len(f.Examples) > 0 && more > 0 {
				fmt.Fprintf(out, "  and %d more\n", more)
			}
		}
	}
	if r.Unknown != "" {
		fmt.Fprintf(o.Notes, "whether the ingress has reported losses is not known: %s\n", r.Unknown)
	}
	for _, l := range r.Reported {
		fmt.Fprintf(out, "reported %s: %v\n", l.Time.Format(time.RFC3339), l)
	}
	return out.Flush()
}

// verdict returns the error that Run returns after everything was read.
func (r *Report) verdict(acknowledged, unread bool) error {
	lost, other := r.count()
	switch {
	case !acknowledged && (len(r.Reported) > 0 || lost > 0):
		return fmt.Errorf("unacknowledged: %s; see Losses in docs/operations.md for what to do and how to acknowledge them", r.unacknowledged())
	case other > 0:
		return fmt.Errorf("%s; see Losses in docs/operations.md for what to do", terminal.Plural(other, "message is not as it should be", "messages are not as they should be"))
	case !acknowledged && unread:
		return errors.New("the streams have no loss, but the reports of the ingress were not read")
	}
	return nil
}

// count returns the numbers of the lost messages that were not acknowledged before, and of
// those that are not as they should be.
func (r *Report) count() (lost, other uint64) {
	for _, s := range r.Streams {
		for _, f := range s.Findings {
			switch {
			case !f.Problem.isLoss():
				other += f.Messages
			case !f.Acknowledged:
				lost += f.Messages
			}
		}
	}
	return lost, other
}

// unacknowledged describes the losses that were not acknowledged before.
func (r *Report) unacknowledged() string {
	lost, _ := r.count()
	return terminal.Plural(len(r.Reported), "reported loss", "reported losses") + ", " + terminal.Plural(lost, "lost message", "lost messages")
}
