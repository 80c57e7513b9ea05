package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/held"
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
			list, _, err := held.Read(cmd.Context(), c)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "the quarantine is empty")
			}
			if asJSON {
				return held.PrintJSON(cmd.OutOrStdout(), list)
			}
			return held.PrintTable(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}
