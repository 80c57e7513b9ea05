package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/held"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

func requeueCommand(kind schema.Kind, cmd *cobra.Command) *cobra.Command {
	var dryRun bool
	which := held.Choice{Kind: kind}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		which.IDs = args
		return settle(cmd, which, func(ctx context.Context, c *held.Chosen) error {
			return c.Requeue(ctx, cmd.OutOrStdout(), dryRun)
		})
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would become of each")
	return cmd
}

func discardCommand(kind schema.Kind, one, many string, cmd *cobra.Command) *cobra.Command {
	var yes bool
	which := held.Choice{Kind: kind}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		which.IDs = args
		return settle(cmd, which, func(ctx context.Context, c *held.Chosen) error {
			if err := c.PrintTable(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Delete %s permanently?", terminal.Plural(len(c.List), one, many))); err != nil {
					return err
				}
			}
			return c.Discard(ctx, cmd.ErrOrStderr())
		})
	}
	addChoice(cmd, &which)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// addChoice adds the flags that choose what to settle.
func addChoice(cmd *cobra.Command, which *held.Choice) {
	if which.Kind == schema.KindQuarantine {
		cmd.Flags().BoolVar(&which.All, "all", false, "choose all webhooks in the quarantine")
		cmd.Flags().StringVar(&which.Reason, "reason", "", "restrict --all to one reason: malformed, unsupported_type or invalid")
	} else {
		cmd.Flags().BoolVar(&which.All, "all", false, "choose all dead letters")
	}
	addConsumerFlag(cmd, which)
}

// settle calls do with what is chosen, unless that is nothing.
func settle(cmd *cobra.Command, which held.Choice, do func(context.Context, *held.Chosen) error) error {
	c, err := held.Open(cmd.Context(), which)
	if err != nil {
		return err
	}
	defer c.Close()
	if len(c.List) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing to "+cmd.Name()+ofConsumer(which))
		return nil
	}
	return do(cmd.Context(), c)
}
