package replay

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Tail prints the events that s selects, and those that are stored later, until
// ctx ends or out fails: as CloudEvents in JSON, or in columns. Without a time to
// begin it prints only those stored later. Notes are written to log.
func Tail(ctx context.Context, s Selection, out, log io.Writer, asJSON bool) error {
	sel, err := s.resolve()
	if err != nil {
		return err
	}
	print := newPrinter(out, asJSON)
	conn, err := broker.Dial(ctx, "tail")
	if err != nil {
		return err
	}
	defer conn.Close()
	if note := conn.OtherCase(ctx, sel.Filter); note != "" {
		fmt.Fprintln(log, note)
	}
	sel.Follow = true
	if sel.Since.IsZero() {
		// Begin with a sequence, so that no event is missed until the range begins.
		stream, err := publish.OpenStream(ctx, conn.JetStream, conn.Settings.Stream)
		if err != nil {
			return err
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
		return func(m subscribe.Message) error { return writeLine(out, m) }
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
// they are in the subject: decoded, they could contain control characters.
func columns(m subscribe.Message) [4]string {
	s, err := schema.ParseSubject(m.Subject)
	if err != nil {
		return [4]string{"?", "?", "?", terminal.Line(m.ID)}
	}
	if m.Erased() {
		s.Type = strings.TrimPrefix(s.ErasedType(), "versive-ingress.")
	}
	tokens := strings.Split(m.Subject, ".")
	return [4]string{terminal.Line(s.Type), tokens[len(tokens)-3], tokens[len(tokens)-2], terminal.Line(m.ID)}
}
