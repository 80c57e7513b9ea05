package erasure

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// maxShown bounds the matches and the targets that are listed before a confirmation.
const maxShown = 50

// String names what is erased, for messages.
func (e *Erasure) String() string {
	if len(e.targets) == 1 {
		return e.targets[0].String()
	}
	interviews, studies := 0, 0
	for _, t := range e.targets {
		if t.Study == "" {
			interviews++
		} else {
			studies++
		}
	}
	switch {
	case studies == 0:
		return fmt.Sprintf("%d interviews", interviews)
	case interviews == 0:
		return fmt.Sprintf("%d studies", studies)
	default:
		return terminal.Plural(interviews, "interview", "interviews") + " and " + terminal.Plural(studies, "study", "studies")
	}
}

// Print writes what was found to w: the targets of which nothing is stored, with what the
// reason may be, and a table of the others' messages. It leaves out what is more than an
// operator reads, unless all is set.
func (e *Erasure) Print(ctx context.Context, w io.Writer, found []Match, all bool) error {
	stored := make(map[int]bool)
	for _, t := range found {
		stored[t.target] = true
	}
	nothing := 0
	for i, t := range e.targets {
		if stored[i] {
			continue
		}
		if nothing++; nothing > maxShown && !all {
			continue
		}
		target := t.String()
		if t.Study != "" {
			target += " that belongs to no interview"
		}
		fmt.Fprintf(w, "nothing is stored of %s%s\n", target, erasedBefore(e.tombstones[i]))
		if e.tombstones[i] == 0 {
			fmt.Fprintln(w, cmp.Or(e.conn.OtherCase(ctx, t.filter()), broker.SeeFind))
		}
	}
	more(w, nothing, all)
	if len(found) == 0 {
		return nil
	}
	tombstones := 0
	for _, n := range e.tombstones {
		tombstones += n
	}
	fmt.Fprintf(w, "found of %s%s:\n", e, erasedBefore(tombstones))
	table, others := terminal.NewTable(w), 0
	for i, t := range found {
		if t.other != "" {
			others++
		}
		if i >= maxShown && !all {
			continue
		}
		fmt.Fprintf(table, "  %s\t%d\t%s\t%s\t%s", t.kind.Stream(e.conn.Settings.Stream), t.Sequence, t.Time.Format(time.RFC3339), terminal.Line(t.ID), terminal.Bytes(t.Size))
		if len(e.targets) > 1 {
			fmt.Fprintf(table, "\t%s", e.targets[t.target])
		}
		if t.other != "" {
			fmt.Fprintf(table, "\tmentioned by interview %s", terminal.Line(t.other))
		}
		fmt.Fprintln(table)
	}
	err := table.Flush()
	more(w, len(found), all)
	if others > 0 {
		fmt.Fprintln(w, terminal.Plural(others, "webhook in the quarantine belongs to another interview, and mentions the id",
			"webhooks in the quarantine belong to other interviews, and mention the ids"))
	}
	return err
}

func more(w io.Writer, n int, all bool) {
	if n > maxShown && !all {
		fmt.Fprintf(w, "  and %d more; --dry-run lists them\n", n-maxShown)
	}
}

// erasedBefore describes what earlier erasures have done.
func erasedBefore(events int) string {
	if events == 0 {
		return ""
	}
	return fmt.Sprintf(" (erased before: %s)", terminal.Plural(events, "event", "events"))
}
