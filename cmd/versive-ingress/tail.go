package main

import (
	"errors"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/replay"
)

func tailCommand() *cobra.Command {
	var selection replay.Selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the events as they are stored",
		Long: `Follow the events as they are stored, one line each: time, type, study,
interview and id, the ids as they stand in the subject, where % is the interview
of an event that has none. An erasure is shown as interview.erased or study.erased.

It shows new events, or those from --since on, until Ctrl-C or until nobody
reads what it writes. It waits for a broker that is away, and goes on behind the
last event it has shown.

` + aboutTimes + `
The times that it writes are in UTC.

Settings are those of serve.`,
		Example: `  versive-ingress tail --since 1h
  versive-ingress tail --json --study study_123 | jq .data.interview.transcript`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sel, err := selection.Resolve(cmd.Flags().Changed, time.Now())
			if err != nil {
				return err
			}
			// Once asked for, the signal leaves it to writes to fail.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGPIPE)
			defer stop()
			err = replay.Tail(ctx, sel, cmd.OutOrStdout(), asJSON)
			if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&selection.Since, "since", "", "earlier events too, from this time on")
	addFilter(cmd, &selection)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write CloudEvents in JSON, as replay does")
	return cmd
}
