package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/doctor"
)

func auditCommand() *cobra.Command {
	var acknowledge bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Find lost messages, and acknowledge losses",
		Long: `Read the three streams from end to end, compare the messages that they return
with those that they count, and list the losses that the ingress has reported: a
stream was deleted, ends before an acknowledged message, lacks messages that
were not erased, or counts messages that it cannot return. Messages that are
DELETED OTHERWISE, without a tombstone, are normal except in the event stream.

With --acknowledge, the ingress, doctor and the alert stop reporting the losses
that are printed. Run audit as the user of the ingress, running or not, and with
its INGRESS_DATA_DIR, which has the reports. With an external broker they are in
the log and the metrics of the ingress, and a restart acknowledges them.

EXIT STATUS
  0  every message can be read, and every reported loss is acknowledged; with
     --acknowledge, everything was acknowledged
  1  a loss is not acknowledged, or something could not be checked or
     acknowledged`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return doctor.Audit(cmd.Context(), acknowledge, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&acknowledge, "acknowledge", false, "acknowledge the losses that are printed")
	return cmd
}
