package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/held"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func requeueCommand() *cobra.Command {
	var (
		which  held.Choice
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "requeue ID… | --all",
		Short: "Turn what is understood by now into events",
		Long: `Put webhooks of the quarantine through the schema of this version. What it
understands is stored as an event under the id that it came with, once, as if
it came today, and then removed from the quarantine. An interruption is settled
by running it again.

What is still not understood stays.

EXIT STATUS
  0  nothing stayed
  1  something stayed, or an error prevented it`,
		Example: `  versive-ingress quarantine requeue --all --dry-run
  versive-ingress quarantine requeue --all --reason unsupported_type
  versive-ingress quarantine requeue msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.IDs = args
			if err := which.Check(); err != nil {
				return err
			}
			c, err := broker.Dial(cmd.Context(), "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := held.Choose(cmd.Context(), c, which)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to requeue")
				return nil
			}
			return held.Requeue(cmd.Context(), c, list, cmd.OutOrStdout(), dryRun)
		},
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would become of each")
	return cmd
}

func discardCommand() *cobra.Command {
	var (
		which held.Choice
		yes   bool
	)
	cmd := &cobra.Command{
		Use:   "discard ID… | --all",
		Short: "Delete for good what will never be an event",
		Long: `Overwrite and delete webhooks of the quarantine. Nothing brings them back but a
resend, which is stored again once the duplicate window has forgotten the id.

Shows what it would delete and asks on the terminal; --yes does not ask. As erase
does, it prints whether the overwriting is verified: run it on the machine of the
ingress, as its user or as root, and with its INGRESS_DATA_DIR.

EXIT STATUS
  0  all were deleted
  1  something may be left, or nobody confirmed; the error says what to do`,
		Example: `  versive-ingress quarantine discard msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress quarantine discard --all --reason malformed --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.IDs = args
			if err := which.Check(); err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := broker.Dial(ctx, "quarantine")
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := held.Choose(ctx, c, which)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to discard")
				return nil
			}
			if err := held.PrintTable(cmd.OutOrStdout(), list); err != nil {
				return err
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Delete %s for good?", terminal.Plural(len(list), "webhook", "webhooks"))); err != nil {
					return err
				}
			}
			return held.Discard(ctx, c, list, cmd.ErrOrStderr())
		},
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
