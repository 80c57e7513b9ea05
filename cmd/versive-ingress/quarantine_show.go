package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/held"
)

func showCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a quarantined webhook: why it was not understood, and its body",
		Long: `Show a quarantined webhook: when it was received, why it was not understood then
and whether this version understands it, its headers, and its body, in which
control characters are escaped (\x1b). The body is personal data.

EXIT STATUS
  0  the webhook was printed
  1  it is not in the quarantine, or cannot be read`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := held.Open(cmd.Context(), held.Choice{IDs: args})
			if err != nil {
				return err
			}
			defer c.Close()
			k := c.List[0]
			body, err := c.Body(cmd.Context(), k)
			if err != nil {
				return err
			}
			if raw {
				_, err := cmd.OutOrStdout().Write(body)
				return err
			}
			return c.Show(cmd.OutOrStdout(), k, body)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print only the body, byte for byte")
	return cmd
}
