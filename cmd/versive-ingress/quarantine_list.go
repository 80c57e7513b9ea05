package main

import (
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is in the quarantine, the newest last",
		Long: `List what is in the quarantine, the newest last: age, reason, size, id.

With --json, each line is an object, with the time and what was not
understood, too. Prints nothing if the quarantine is empty, and says so on the
standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := broker.Dial(cmd.Context(), "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, _, err := readQuarantine(cmd.Context(), c)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "the quarantine is empty")
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printTable(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func printTable(w io.Writer, list []kept) error {
	table := terminal.NewTable(w)
	for _, k := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", terminal.Age(time.Since(k.Time)), k.reason(), terminal.Bytes(k.Size), k.ID)
	}
	return table.Flush()
}

func printJSON(w io.Writer, list []kept) error {
	for _, k := range list {
		line, err := json.Marshal(struct {
			Age      int64     `json:"age_seconds"`
			Reason   string    `json:"reason"`
			Size     int       `json:"size"`
			ID       string    `json:"id"`
			Detail   string    `json:"detail"`
			Time     time.Time `json:"time"`
			Sequence uint64    `json:"sequence"`
		}{int64(time.Since(k.Time).Seconds()), k.reason(), k.Size, k.ID, k.description(), k.Time, k.Sequence})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}
