package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/held"
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
			list, err := held.Choose(cmd.Context(), c, held.Choice{IDs: args})
			if err != nil {
				return err
			}
			k := list[0]
			body, err := held.Body(cmd.Context(), c, k.Sequence)
			if err != nil {
				return err
			}
			if raw {
				_, err := cmd.OutOrStdout().Write(body)
				return err
			}
			return held.Show(cmd.OutOrStdout(), c, k, body)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "only the body, byte for byte")
	return cmd
}
