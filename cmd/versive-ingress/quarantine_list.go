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
		Short: "List the quarantined webhooks, the newest last",
		Long: `List the quarantined webhooks, the newest last: age, reason, size and svix-id.
With --json, also the time, the sequence, and what was not understood. If there
are none, only a note on the standard error is printed.

EXIT STATUS
  0  the list is complete, even if it is empty
  1  the quarantine cannot be read`,
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
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
