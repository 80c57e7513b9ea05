package main

import (
	"fmt"

	"github.com/spf13/cobra"

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
			c, err := held.Open(cmd.Context(), held.Choice{All: true})
			if err != nil {
				return err
			}
			defer c.Close()
			if len(c.List) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "the quarantine is empty")
			}
			if asJSON {
				return c.PrintJSON(cmd.OutOrStdout())
			}
			return c.PrintTable(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
