package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/held"
)

func quarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "List, show, requeue and discard quarantined webhooks",
		Long: `The quarantine keeps, byte for byte, webhooks that were authentic but not
understood: those of an unknown event type, with a member that is missing or has
the wrong type, or that are not JSON.

Once a version of the program understands them, requeue stores them as events
under their svix-ids. Discard deletes those that will never be events.

` + aboutSettings,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(listCommand(), showCommand(), requeueCommand(), discardCommand())
	return cmd
}

// addChoice adds the flags that choose quarantined webhooks.
func addChoice(cmd *cobra.Command, w *held.Choice) {
	cmd.Flags().BoolVar(&w.All, "all", false, "choose all webhooks in the quarantine")
	cmd.Flags().StringVar(&w.Reason, "reason", "", "restrict --all to one reason: malformed, unsupported_type or invalid")
}
