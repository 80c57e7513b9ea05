package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
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
were not erased, or counts messages that it cannot return. Erased messages have
a tombstone; to be deleted otherwise is normal in the quarantine and among the
dead letters.

With --acknowledge, the ingress, doctor and the alert stop reporting the losses
that are printed, whether the ingress is running or not. The reports and the
acknowledgements are files in INGRESS_DATA_DIR: run audit on the machine of the
ingress, as its user. With an external broker (INGRESS_NATS_URL), the reports
are in the log and the metrics of the ingress, and a restart acknowledges them.

EXIT STATUS
  0  every message can be read, and every reported loss is acknowledged; with
     --acknowledge, everything was acknowledged
  1  a loss is not acknowledged, or something could not be checked or
     acknowledged`,
		Example: `  versive-ingress audit
  versive-ingress audit --acknowledge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := config.Read()
			if err != nil {
				return err
			}
			return doctor.Audit(cmd.Context(), s, acknowledge, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&acknowledge, "acknowledge", false, "acknowledge the losses that are printed")
	return cmd
}
