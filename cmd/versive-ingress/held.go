package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/held"
	"versive-ingress/schema"
)

// The commands quarantine and deadletters have the same subcommands. Each of the
// following functions adds arguments, flags and RunE to a command that has its texts.

// addConsumerFlag adds the flag that restricts a choice of dead letters.
func addConsumerFlag(cmd *cobra.Command, which *held.Choice) {
	if which.Kind != schema.KindDead {
		return
	}
	cmd.Flags().StringVar(&which.Consumer, "consumer", "", "only the dead letters of this consumer")
	_ = cmd.RegisterFlagCompletionFunc("consumer", func(cmd *cobra.Command, _ []string, complete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return completeConsumers(cmd, nil, complete)
	})
}

// ofConsumer returns what a note that nothing was found adds if only one consumer was chosen.
func ofConsumer(which held.Choice) string {
	if which.Consumer == "" {
		return ""
	}
	return " of consumer " + which.Consumer
}

func listCommand(kind schema.Kind, none string, cmd *cobra.Command) *cobra.Command {
	var asJSON bool
	which := held.Choice{Kind: kind, All: true}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := held.Open(cmd.Context(), which)
		if err != nil {
			return err
		}
		defer c.Close()
		if len(c.List) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), none+ofConsumer(which))
		}
		if asJSON {
			return c.PrintJSON(cmd.OutOrStdout())
		}
		return c.PrintTable(cmd.OutOrStdout())
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	addConsumerFlag(cmd, &which)
	return cmd
}

func showCommand(kind schema.Kind, cmd *cobra.Command) *cobra.Command {
	var raw bool
	which := held.Choice{Kind: kind}
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		which.IDs = args
		c, err := held.Open(cmd.Context(), which)
		if err != nil {
			return err
		}
		defer c.Close()
		if raw && len(c.List) > 1 {
			return errors.New("several messages have this id; --raw prints only one, which --consumer may choose")
		}
		for i, k := range c.List {
			body, err := c.Body(cmd.Context(), k)
			if err != nil {
				return err
			}
			if raw {
				_, err := cmd.OutOrStdout().Write(body)
				return err
			}
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			if err := c.Show(cmd.OutOrStdout(), k, body); err != nil {
				return err
			}
		}
		return nil
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print only the body, byte for byte")
	addConsumerFlag(cmd, &which)
	return cmd
}
