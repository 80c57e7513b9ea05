package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/consumers"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
)

func consumersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "consumers",
		Short: "List, rewind and delete the consumers of events",
		Long: `List the durable consumers of the event stream: how many events each has not
received (pending), not acknowledged (ack pending) and received more than once
(redelivered); the age of the oldest event that it has not acknowledged; when it
last received or acknowledged one; and since when it has acknowledged nothing
although it could have.

The broker forgets the last activity when it restarts or rewinds a consumer.
Until the next acknowledgement, a consumer then counts as stalled since its
oldest event was stored. docs/commands.md describes the members of --json.

` + aboutSettings + `

EXIT STATUS
  0  the list is complete, even if it is empty
  1  the consumers cannot be listed`,
		Example: `  versive-ingress consumers
  versive-ingress consumers --json | jq -r 'select(.stalled_seconds > 3600).consumer'`,
		ValidArgs: []cobra.Completion{"list"}, // as quarantine and deadletters have it
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := consumers.Open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.List(cmd.Context())
			switch {
			case err != nil:
				return err
			case asJSON:
				return consumers.PrintJSON(cmd.OutOrStdout(), list)
			case len(list) == 0:
				fmt.Fprintln(cmd.ErrOrStderr(), "there are no durable consumers")
				return nil
			}
			return consumers.PrintTable(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.AddCommand(consumersRewindCommand(), consumersDeleteCommand())
	return cmd
}

func consumersDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a consumer and its position",
		Long: `Delete a durable consumer, after printing its state and asking for confirmation.
No event is deleted. A program that still reads it ends with an error, and one
that creates it anew begins with the first event. Until then, its dead letters
cannot be requeued.

EXIT STATUS
  0  the consumer was deleted
  1  there is none of that name, it could not be deleted, or the deletion was
     not confirmed`,
		Example:           `  versive-ingress consumers delete reports-2024`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeConsumers,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := consumers.Open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			state, err := c.Find(ctx, args[0])
			if err != nil {
				return err
			}
			if err := consumers.PrintTable(cmd.OutOrStdout(), []publish.ConsumerState{state}); err != nil {
				return err
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), "Delete this consumer and its position?"); err != nil {
					return err
				}
			}
			if err := c.Delete(ctx, state.Name); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "deleted")
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}
