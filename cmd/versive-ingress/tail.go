package main

import (
	"errors"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/replay"
)

func tailCommand() *cobra.Command {
	var selection replay.Selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the events as they are stored",
		Long: `Print the events as they are stored, one line each, until Ctrl-C or until the
reader of a pipe is gone: time in UTC, type, study, interview and svix-id. Ids
are encoded as in the subject; % stands for the id that an event does not have.
An erasure has the type interview.erased or study.erased.

Without --since, only new events are printed. If the connection to the broker is
lost, tail waits for it and resumes after the last event that it has printed.

` + aboutTimes + `

` + aboutSettings + `

EXIT STATUS
  0  ended by Ctrl-C, SIGTERM, or the reader of the pipe
  1  the stream cannot be read`,
		Example: `  versive-ingress tail --since 1h
  versive-ingress tail --json --study study_123 | jq .data.interview.transcript`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Otherwise a failed write to the standard output ends the process with this signal.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGPIPE)
			defer stop()
			err := replay.Tail(ctx, selection, cmd.OutOrStdout(), cmd.ErrOrStderr(), asJSON)
			if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&selection.Since, "since", "", "print stored events from this time on, too")
	addFilter(cmd, &selection)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each event as a CloudEvent in JSON, as replay does")
	return cmd
}
