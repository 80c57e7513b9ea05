package held

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

// PrintTable writes a line for each webhook to w: age, reason, size and id.
func (c *Chosen) PrintTable(w io.Writer) error {
	table := terminal.NewTable(w)
	for _, k := range c.List {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", terminal.Age(time.Since(k.Time)), k.reason(), terminal.Bytes(k.Size), k.ID)
	}
	return table.Flush()
}

// PrintJSON writes a JSON object for each webhook to w, one a line.
func (c *Chosen) PrintJSON(w io.Writer) error {
	for _, k := range c.List {
		line, err := json.Marshal(struct {
			Age          int64     `json:"age_seconds"`
			Reason       string    `json:"reason"`
			Size         int       `json:"size"`
			ID           string    `json:"id"`
			Organization string    `json:"organization,omitempty"`
			Detail       string    `json:"detail"`
			Time         time.Time `json:"time"`
			Sequence     uint64    `json:"sequence"`
		}{int64(time.Since(k.Time).Seconds()), k.reason(), k.Size, k.ID, k.Organization, k.description(), k.Time, k.Sequence})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// Show writes the details of a webhook to w, and its body as terminal.Printable
// escapes it.
func (c *Chosen) Show(w io.Writer, k Kept, body []byte) error {
	table := terminal.NewTable(w)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, value) }
	row("id", k.ID)
	if k.Organization != "" {
		row("organization", k.Organization)
	}
	row("received", fmt.Sprintf("%s, %s ago", k.Time.Format(time.RFC3339), terminal.Age(time.Since(k.Time))))
	row("stored", fmt.Sprintf("%s %d", schema.KindQuarantine.Stream(c.Settings.Stream), k.Sequence))
	row("size", fmt.Sprintf("%d bytes", len(body)))
	row("reason then", k.reason()+": "+k.description())
	event, err := schema.Normalize(k.ID, body)
	switch {
	case k.erased:
		row("now", "it is being erased; run erase again")
	case err != nil:
		row("reason now", err.Error())
	default:
		row("now", "understood; requeue stores it under "+event.Subject(c.Settings.Subject))
	}
	for _, name := range slices.Sorted(maps.Keys(k.Header)) {
		if http, ok := strings.CutPrefix(name, schema.HeaderHTTP); ok {
			row("header", http+": "+k.Header.Get(name))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s\n", terminal.Printable(body))
	return err
}
