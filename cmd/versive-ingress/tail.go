package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func tailCommand() *cobra.Command {
	var selection selectionFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the events as they are stored",
		Long: `Follow the events as they are stored, one line each: time, type, study,
interview and id, the ids as they stand in the subject, where % is the interview
of an event that has none. An erasure is shown as interview.erased or study.erased.

It shows new events, or those from --since on, until Ctrl-C or until nobody
reads what it writes. It waits for a broker that is away, and goes on behind the
last event it has shown.

` + aboutTimes + `
The times that it writes are in UTC.

Settings are those of serve.`,
		Example: `  versive-ingress tail --since 1h
  versive-ingress tail --json --study study_123 | jq .data.interview.transcript`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sel, err := selection.selection(cmd, time.Now())
			if err != nil {
				return err
			}
			// Once asked for, the signal leaves it to writes to fail.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGPIPE)
			defer stop()
			err = tail(ctx, sel, newPrinter(cmd.OutOrStdout(), asJSON))
			if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&selection.Since, "since", "", "earlier events too, from this time on")
	selection.addFilter(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write CloudEvents in JSON, as replay does")
	return cmd
}

// tail prints events until ctx ends.
func tail(ctx context.Context, sel subscribe.Selection, print func(subscribe.Message) error) error {
	conn, err := broker.Dial(ctx, "tail")
	if err != nil {
		return err
	}
	defer conn.Close()
	sel.Follow = true
	if sel.Since.IsZero() {
		// By sequence: new is what comes from now on, however long the rest takes.
		stream, err := conn.JetStream.Stream(ctx, conn.Settings.Stream)
		if err != nil {
			return fmt.Errorf("stream %s: %w", conn.Settings.Stream, err)
		}
		sel.First = stream.CachedInfo().State.LastSeq + 1
	}
	for m, err := range conn.Source.Range(ctx, sel) {
		if err != nil {
			return err
		}
		if err := print(m); err != nil {
			return err
		}
	}
	return nil
}

// newPrinter returns what prints a message as a line.
func newPrinter(out io.Writer, asJSON bool) func(subscribe.Message) error {
	if asJSON {
		return func(m subscribe.Message) error {
			line, err := schema.AppendStructured(nil, m.Header, m.Data, m.Sequence, m.Time)
			if err != nil {
				return undelivered(m, err)
			}
			_, err = out.Write(append(line, '\n'))
			return err
		}
	}
	t := table{out: out, dim: terminal.IsTerminal(out) && os.Getenv("NO_COLOR") == ""}
	return t.print
}

// table prints messages in columns that grow with what they hold.
type table struct {
	out    io.Writer
	dim    bool // the time
	widths [3]int
}

// widest is where a column stops growing.
const widest = 40

func (t *table) print(m subscribe.Message) error {
	at := m.Time.Format("2006-01-02T15:04:05.000Z")
	if t.dim {
		at = "\x1b[2m" + at + "\x1b[0m"
	}
	line := []byte(at)
	tokens := columns(m)
	for i, token := range tokens[:3] {
		t.widths[i] = max(t.widths[i], min(len(token), widest))
		line = fmt.Appendf(line, "  %-*s", t.widths[i], token)
	}
	_, err := t.out.Write(append(line, "  "+tokens[3]+"\n"...))
	return err
}

// columns returns type, study, interview and id of a message. Ids stay as
// they are in the subject: they could hold what a terminal obeys.
func columns(m subscribe.Message) [4]string {
	s, err := schema.ParseSubject(m.Subject)
	if err != nil {
		return [4]string{"?", "?", "?", m.ID}
	}
	if m.Erased() {
		s.Type = strings.TrimPrefix(s.ErasedType(), "versive-ingress.")
	}
	tokens := strings.Split(m.Subject, ".")
	return [4]string{s.Type, tokens[len(tokens)-3], tokens[len(tokens)-2], m.ID}
}
