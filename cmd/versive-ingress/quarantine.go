package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/held"
)

func quarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Look at what was authentic but not understood, and settle it",
		Long: `The quarantine keeps webhooks that were authentic but not understood, byte for
byte: of a new event type, with a member of another type, or not JSON.

When a newer version understands them, requeue turns them into events under
the ids that they came with. What will never be one is discarded.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(listCommand(), showCommand(), requeueCommand(), discardCommand())
	return cmd
}

// addChoice adds the flags that choose webhooks of the quarantine.
func addChoice(cmd *cobra.Command, w *held.Choice) {
	cmd.Flags().BoolVar(&w.All, "all", false, "all of them")
	cmd.Flags().StringVar(&w.Reason, "reason", "", "with --all: only those kept for this reason (malformed, unsupported_type, invalid)")
}
