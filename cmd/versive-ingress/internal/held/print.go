package held

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

// maxReason bounds the error of a dead letter in a table, in characters.
const maxReason = 60

// PrintTable writes a line for each message to w: age, reason, size and id of a webhook;
// age, consumer, state, size, id and reason of a dead letter.
func (c *Chosen) PrintTable(w io.Writer) error {
	table := terminal.NewTable(w)
	for _, k := range c.List {
		age, size := terminal.Age(time.Since(k.Time)), terminal.Bytes(k.Size)
		if c.Kind == schema.KindQuarantine {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", age, k.reason(), size, terminal.Line(k.ID))
			continue
		}
		reason := []rune(strings.Join(strings.Fields(terminal.Printable([]byte(k.reason()))), " "))
		if len(reason) > maxReason {
			reason = append(reason[:maxReason-1], '…')
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", age, terminal.Line(k.consumer()), k.state(), size, terminal.Line(k.ID), string(reason))
	}
	return table.Flush()
}

// state returns whether a dead letter was requeued, in one word.
func (k Kept) state() string {
	switch {
	case k.erased:
		return "erased"
	case k.request > 0:
		return "requeued"
	default:
		return "waits"
	}
}

// PrintJSON writes a JSON object for each message to w, one a line. docs/commands.md
// describes its members to programs.
func (c *Chosen) PrintJSON(w io.Writer) error {
	for _, k := range c.List {
		if err := terminal.WriteJSON(w, c.json(k)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Chosen) json(k Kept) any {
	age := int64(time.Since(k.Time).Seconds())
	if c.Kind == schema.KindQuarantine {
		return struct {
			Age          int64     `json:"age_seconds"`
			Reason       string    `json:"reason"`
			Size         int       `json:"size"`
			ID           string    `json:"id"`
			Organization string    `json:"organization,omitzero"`
			Detail       string    `json:"detail"`
			Time         time.Time `json:"time"`
			Sequence     uint64    `json:"sequence"`
		}{age, k.reason(), k.Size, k.ID, k.Organization, k.description(), k.Time, k.Sequence}
	}
	deliveries, _ := strconv.ParseUint(k.Header.Get(schema.HeaderDeadDeliveries), 10, 64)
	var requeued *time.Time
	if k.request > 0 {
		requeued = &k.requeued
	}
	return struct {
		Age           int64      `json:"age_seconds"`
		Consumer      string     `json:"consumer"`
		State         string     `json:"state"`
		Size          int        `json:"size"`
		ID            string     `json:"id"`
		Organization  string     `json:"organization,omitzero"`
		Reason        string     `json:"reason"`
		Erasure       bool       `json:"erasure"`
		Deliveries    uint64     `json:"deliveries"`
		EventSubject  string     `json:"event_subject"`
		EventSequence uint64     `json:"event_sequence"`
		Time          time.Time  `json:"time"`
		Sequence      uint64     `json:"sequence"`
		Requeued      *time.Time `json:"requeued"`
	}{
		age, k.consumer(), k.state(), k.Size, k.ID, k.Organization, k.reason(), k.Erased(), deliveries,
		k.Header.Get(schema.HeaderDeadSubject), schema.DeadSequence(k.Header), k.Time, k.Sequence, requeued,
	}
}

// Show writes the details of a message to w, and its body as terminal.Printable
// escapes it.
func (c *Chosen) Show(w io.Writer, k Kept, body []byte) error {
	table := terminal.NewTable(w)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, terminal.Line(value)) }
	when := fmt.Sprintf("%s, %s ago", k.Time.Format(time.RFC3339), terminal.Age(time.Since(k.Time)))
	stored := func() {
		row("stored", fmt.Sprintf("%s %d", c.Kind.Stream(c.Settings.Stream), k.Sequence))
		row("size", fmt.Sprintf("%d bytes", len(body)))
	}
	row("id", k.ID)
	if k.Organization != "" {
		row("organization", k.Organization)
	}
	if c.Kind == schema.KindQuarantine {
		row("received", when)
		stored()
		c.showWebhook(row, k, body)
	} else {
		row("consumer", k.consumer())
		row("given up", when)
		stored()
		c.showLetter(row, k)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", terminal.Printable(body))
	return err
}

const beingErased = "it is being erased; run erase again"

func (c *Chosen) showWebhook(row func(name, value string), k Kept, body []byte) {
	row("reason then", k.reason()+": "+k.description())
	event, err := schema.Normalize(k.ID, body)
	switch {
	case k.erased:
		row("now", "it was requeued, discarded or erased, which was interrupted; requeue or discard deletes it")
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
}

func (c *Chosen) showLetter(row func(name, value string), k Kept) {
	what := "event"
	if k.Erased() {
		what = "erasure"
	}
	row(what, fmt.Sprintf("%s %d, %s", c.Settings.Stream, schema.DeadSequence(k.Header), k.Header.Get(schema.HeaderDeadSubject)))
	row("deliveries", k.Header.Get(schema.HeaderDeadDeliveries))
	row("reason", k.reason())
	switch {
	case k.erased:
		row("now", beingErased)
	case k.isForwarded():
		row("now", elsewhere)
	case k.request > 0:
		row("now", fmt.Sprintf("requeued %s ago; its consumer has not handled it yet", terminal.Age(time.Since(k.requeued))))
	default:
		row("now", "it waits; requeue has its consumer handle it once more")
	}
}
