package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

func showCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one webhook: its body, and what was not understood",
		Long: `Show one webhook of the quarantine: the headers that were kept, what exactly was
not understood then and is not now, and the body. Control characters in it are
written as \x1b, so that they cannot command the terminal.

With --raw, nothing but the body, byte for byte. It is personal data.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := broker.Dial(cmd.Context(), "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := choose(cmd.Context(), c, choice{ids: args})
			if err != nil {
				return err
			}
			k := list[0]
			body, err := readBody(cmd.Context(), c, k.Sequence)
			if err != nil {
				return err
			}
			if raw {
				_, err := cmd.OutOrStdout().Write(body)
				return err
			}
			return showKept(cmd.OutOrStdout(), c, k, body)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "only the body, byte for byte")
	return cmd
}

func showKept(w io.Writer, c *broker.Connection, k kept, body []byte) error {
	table := terminal.NewTable(w)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, value) }
	row("id", k.ID)
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
