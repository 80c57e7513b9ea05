package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/consumers"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func consumersRewindCommand() *cobra.Command {
	var (
		since string
		first uint64
		yes   bool
	)
	cmd := &cobra.Command{
		Use:   "rewind NAME --since TIME | --first SEQUENCE",
		Short: "Have events delivered to a consumer again",
		Long: `Rewind a durable consumer, after printing how many events it will receive again
and asking for confirmation: the broker delivers every event from the given time
or sequence on, and none before it. The consumer may be read meanwhile. Its
programs must not skip what they have processed; see docs/consumers.md.

A point after an event that the consumer has not acknowledged yet is refused,
because that event would be skipped.

nats-server before 2.14 cannot rewind a consumer, and later versions not to
before the consumer's start. Then rewind deletes the consumer and creates it
again with the same settings, which ends the programs that read it.

` + aboutTimes + `

EXIT STATUS
  0  the consumer was rewound, or it has received nothing since
  1  it was not rewound, as the error describes; or the rewind was not confirmed`,
		Example: `  versive-ingress consumers rewind reports --since 2h
  versive-ingress consumers rewind reports --first 1 --yes`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeConsumers,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := terminal.ParseTime("since", since)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := consumers.Open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			rewind, err := c.Plan(ctx, args[0], from, first)
			if err != nil {
				return err
			}
			if rewind == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "there is nothing to deliver to consumer %s again\n", args[0])
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), rewind)
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), "Rewind it?"); err != nil {
					return err
				}
			}
			if err := c.Do(ctx, rewind); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "rewound")
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "begin with the events stored at this time or later")
	flags.Uint64Var(&first, "first", 0, "begin with this sequence")
	flags.BoolVar(&yes, "yes", false, "do not ask for confirmation")
	cmd.MarkFlagsOneRequired("since", "first")
	cmd.MarkFlagsMutuallyExclusive("since", "first")
	return cmd
}

// completeConsumers completes the name of a consumer.
func completeConsumers(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, directive
	}
	c, err := consumers.Open(cmd.Context())
	if err != nil {
		return nil, directive
	}
	defer c.Close()
	list, _ := c.List(cmd.Context()) // an error completes nothing
	var names []cobra.Completion
	for _, state := range list {
		names = append(names, state.Name)
	}
	return names, directive
}
