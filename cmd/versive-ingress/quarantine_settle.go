package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

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
		Short: "Store the quarantined webhooks that this version understands",
		Long: `Store quarantined webhooks as events, if this version understands them. Each is
stored once, under its svix-id, and then removed from the quarantine. The others
stay. After an interruption, run the command again.

EXIT STATUS
  0  none of the chosen webhooks is left in the quarantine; with --dry-run, none
     would be
  1  some are left: they are not understood, or an error occurred`,
		Example: `  versive-ingress quarantine requeue --all --dry-run
  versive-ingress quarantine requeue --all --reason unsupported_type
  versive-ingress quarantine requeue msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.IDs = args
			return settle(cmd, which, func(ctx context.Context, c *held.Chosen) error {
				return c.Requeue(ctx, cmd.OutOrStdout(), dryRun)
			})
		},
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would become of each")
	return cmd
}

func discardCommand() *cobra.Command {
	var (
		which held.Choice
		yes   bool
	)
	cmd := &cobra.Command{
		Use:   "discard ID… | --all",
		Short: "Delete quarantined webhooks permanently",
		Long: `Overwrite and delete quarantined webhooks, after listing them and asking for
confirmation. A resend is stored again once the duplicate window has expired.

Like erase, discard reports whether the overwriting is verified. For that, run
it on the machine of the ingress, as its user or as root, and with its
INGRESS_DATA_DIR.

EXIT STATUS
  0  all chosen webhooks were deleted
  1  some may be left, as the error describes; or the deletion was not confirmed`,
		Example: `  versive-ingress quarantine discard msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress quarantine discard --all --reason malformed --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			which.IDs = args
			return settle(cmd, which, func(ctx context.Context, c *held.Chosen) error {
				if err := c.PrintTable(cmd.OutOrStdout()); err != nil {
					return err
				}
				if !yes {
					if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Delete %s permanently?", terminal.Plural(len(c.List), "webhook", "webhooks"))); err != nil {
						return err
					}
				}
				return c.Discard(ctx, cmd.ErrOrStderr())
			})
		},
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// settle calls do with the webhooks of a choice, unless there are none.
func settle(cmd *cobra.Command, which held.Choice, do func(context.Context, *held.Chosen) error) error {
	c, err := held.Open(cmd.Context(), which)
	if err != nil {
		return err
	}
	defer c.Close()
	if len(c.List) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to "+cmd.Name())
		return nil
	}
	return do(cmd.Context(), c)
}
