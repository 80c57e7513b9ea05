package consumers

import (
	"fmt"
	"io"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
)

// PrintTable writes a line for each consumer to w, after a header.
func PrintTable(w io.Writer, list []publish.ConsumerState) error {
	table := terminal.NewTable(w)
	fmt.Fprintln(table, "CONSUMER\tPENDING\tACK PENDING\tREDELIVERED\tOLDEST\tLAST ACTIVITY\tSTALLED SINCE")
	for _, c := range list {
		oldest, active, stalled := "-", "unknown", "-"
		if !c.Oldest.IsZero() {
			oldest = terminal.Age(c.Lag())
		}
		if last := c.LastActivity(); !last.IsZero() {
			active = terminal.Age(c.TimeStamp.Sub(last)) + " ago"
		}
		if since := c.StalledSince(); !since.IsZero() {
			stalled = since.UTC().Format(time.RFC3339)
		}
		if c.Paused {
			stalled = "paused"
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", c.Name, c.NumPending, c.NumAckPending, c.NumRedelivered, oldest, active, stalled)
	}
	return table.Flush()
}

// A Record is the state of a consumer for programs. docs/commands.md describes its
// members.
type Record struct {
	Consumer       string     `json:"consumer"`
	Subjects       []string   `json:"subjects"`
	Pending        uint64     `json:"pending"`
	AckPending     int        `json:"ack_pending"`
	Redelivered    int        `json:"redelivered"`
	OldestSequence *uint64    `json:"oldest_sequence"`
	Oldest         *time.Time `json:"oldest_time"`
	OldestSeconds  float64    `json:"oldest_seconds"`
	LastActivity   *time.Time `json:"last_activity"`
	StalledSince   *time.Time `json:"stalled_since"`
	StalledSeconds float64    `json:"stalled_seconds"`
	Paused         bool       `json:"paused"`
}

// NewRecord returns the record of a consumer.
func NewRecord(c publish.ConsumerState) Record {
	return Record{
		c.Name, c.Filters(), c.NumPending, c.NumAckPending, c.NumRedelivered,
		known(c.OldestSequence), known(c.Oldest.UTC()), c.Lag().Seconds(),
		known(c.LastActivity().UTC()), known(c.StalledSince().UTC()), c.Stalled().Seconds(), c.Paused,
	}
}

// PrintJSON writes the record of each consumer to w, one a line.
func PrintJSON(w io.Writer, list []publish.ConsumerState) error {
	for _, c := range list {
		if err := terminal.WriteJSON(w, NewRecord(c)); err != nil {
			return err
		}
	}
	return nil
}

// known returns nil for the zero value, which becomes null.
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
