package find

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// Print writes the reports to w.
func Print(w io.Writer, reports []Report) error {
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := r.print(w); err != nil {
			return err
		}
	}
	return nil
}

func (r Report) print(w io.Writer) error {
	table := terminal.NewTable(w)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, terminal.Line(fmt.Sprintf(format, args...)))
	}
	row(r.Kind, "%s", r.ID)
	if r.Organization != "" && r.Events != 1 { // an event prints its own
		row("organization", "%s", r.Organization)
	}
	switch {
	case r.Events == 1 && len(r.List) == 1:
		r.List[0].print(row, r.Kind)
	case r.Events > 0:
		text := terminal.Plural(r.Events, "event", "events")
		if r.Erased != nil && *r.Erased > 0 {
			text += fmt.Sprintf(", %d of them erased", *r.Erased)
		}
		if r.Interviews != nil && r.Kind == "study" {
			text += ", " + terminal.Plural(*r.Interviews, "interview", "interviews")
		}
		row("stored", "%s", text)
		row("first", "%s", at(*r.First))
		row("last", "%s", at(*r.Last))
	default:
		row("stored", "no")
	}
	if n := Older(r.Quarantined); n > 0 {
		row("quarantine", "%d older ones, which versive-ingress quarantine list lists, and", n)
	}
	for _, h := range Latest(r.Quarantined) {
		row("quarantine", "%s", h.describe(h.Reason+": "+h.Detail))
	}
	if n := Older(r.DeadLetters); n > 0 {
		row("dead letter", "%d older ones, which versive-ingress deadletters list lists, and", n)
	}
	for _, h := range Latest(r.DeadLetters) {
		row("dead letter", "%s", h.describe(fmt.Sprintf("consumer %s gave up on event %d after %s: %s", h.Consumer, h.EventSequence,
			terminal.Plural(h.Deliveries, "delivery", "deliveries"), h.Reason)))
		if h.Requeued != nil {
			row("requeued", "%s; its consumer has not handled it yet", at(*h.Requeued))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if r.Events > 1 {
		if err := r.printList(w); err != nil {
			return err
		}
	}
	return r.printConsumers(w)
}

// print writes the rows of an event, except for the id by which it was found.
func (e Event) print(row func(name, format string, args ...any), kind string) {
	for _, id := range [...][2]string{{"event", e.ID}, {"interview", e.Interview}, {"study", e.Study}} {
		if id[0] != kind && id[1] != "" {
			row(id[0], "%s", id[1])
		}
	}
	if e.Organization != "" {
		row("organization", "%s", e.Organization)
	}
	row("type", "%s", e.Type)
	if e.Erased {
		row("erased", "%s; the tombstone is %s %d%s", at(e.Time), e.Stream, e.Sequence, e.copies())
		if e.Interrupted {
			row("still stored", "the erasure was interrupted; run versive-ingress erase again")
		}
	} else {
		row("stored", "%s, as %s %d, %s", at(e.Time), e.Stream, e.Sequence, terminal.Bytes(e.Size))
	}
	row("subject", "%s", e.Subject)
}

// copies names the sequences of what was erased.
func (e Event) copies() string {
	if len(e.ErasedCopies) == 0 {
		return ""
	}
	return ", the copy was " + strings.Trim(fmt.Sprint(e.ErasedCopies), "[]")
}

func (r Report) printList(w io.Writer) error {
	fmt.Fprintln(w)
	table := terminal.NewTable(w)
	fmt.Fprintln(table, "STORED\tSEQUENCE\tINTERVIEW\tEVENT\tSIZE")
	for _, e := range r.List {
		size := terminal.Bytes(e.Size)
		if e.Erased {
			size = "erased"
			if e.Interrupted {
				size = "erasure interrupted; run erase again"
			}
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), e.Sequence, terminal.Line(cmp.Or(e.Interview, "-")), terminal.Line(e.ID), size)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if left := r.Events - uint64(len(r.List)); left > 0 {
		filter := fmt.Sprintf("--%s %s", r.Kind, r.ID)
		if r.Organization != "" {
			filter += " --organization " + r.Organization
		}
		fmt.Fprintf(w, "and %s before them; to list all: versive-ingress tail %s --since %s\n",
			terminal.Plural(left, "event", "events"), terminal.Line(filter), r.First.Truncate(time.Second).Format(time.RFC3339))
	}
	return nil
}

// words describe the states of events.
var words = map[State]string{
	Acknowledged:   "acknowledged",
	Unacknowledged: "delivered, not acknowledged",
	Delivered:      "delivered, acknowledged unless among the ack pending",
	Waiting:        "not delivered yet",
	DeadLettered:   "dead-lettered",
	NotSelected:    "not selected",
}

func (r Report) printConsumers(w io.Writer) error {
	if len(r.Consumers) == 0 {
		if r.Events > 0 {
			fmt.Fprintln(w, "\nthere are no durable consumers")
		}
		return nil
	}
	fmt.Fprintln(w)
	table := terminal.NewTable(w)
	fmt.Fprintln(table, "CONSUMER\tSTATE\tPENDING\tACK PENDING\tOLDEST")
	for _, c := range r.Consumers {
		oldest := "-"
		if c.Oldest != nil {
			oldest = terminal.Age(time.Duration(c.OldestSeconds * float64(time.Second)))
		}
		state := c.describe()
		if r.Events == 1 && len(r.List) == 1 {
			state = words[r.List[0].Consumers[c.Consumer]]
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\n", c.Consumer, state, c.Pending, c.AckPending, oldest)
	}
	return table.Flush()
}

// describe returns the numbers of events in each state.
func (r Reading) describe() string {
	var parts []string
	for _, number := range r.numbers() {
		if *number.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", *number.n, words[number.state]))
		}
	}
	return strings.Join(parts, "; ")
}

// describe returns where the message is, and what it holds, unless it is a tombstone.
func (h Held) describe(what string) string {
	text := fmt.Sprintf("%s, %s %d, %s", h.ID, h.Stream, h.Sequence, at(h.Time))
	switch {
	case h.Erased && h.Consumer == "":
		return text + ": requeued, discarded or erased"
	case h.Erased:
		return text + ": erased"
	}
	return text + ", " + terminal.Bytes(h.Size) + ": " + what
}

// at returns a time and its age.
func at(t time.Time) string {
	return fmt.Sprintf("%s, %s ago", t.Format(time.RFC3339), terminal.Age(time.Since(t)))
}
