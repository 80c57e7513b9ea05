package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/audit"
)

func auditCommand() *cobra.Command {
	var o audit.Options
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify every stored message, find lost ones, and acknowledge losses",
		Long: `Read the three streams from end to end, and list

  - the losses that the ingress has reported: a stream was deleted, ends before
    an acknowledged message, lacks messages that were not erased, or counts
    messages that it cannot return;
  - lost messages that it has not reported, and those that were acknowledged;
  - messages that no ingress and no consumer has stored;
  - messages whose subject, headers and data do not agree;
  - messages with the id of an earlier one;
  - messages that were to be erased.

DELETED counts dead letters that were requeued or discarded, and probes of
doctor. docs/commands.md describes the members of --json.

With --acknowledge, the ingress, doctor, the alert and later audits stop
reporting the losses that are printed. The other findings remain until they are
repaired. Run audit as the user of the ingress, running or not, and with its
INGRESS_DATA_DIR, which has the reports and the acknowledgements. With an
external broker, the reports are in the log and the metrics of the ingress, and
a restart acknowledges them; what audit finds itself is acknowledged in
INGRESS_DATA_DIR, which must be a directory that later audits use as well.

EXIT STATUS
  0  every message is as it should be, and every loss is acknowledged
  1  a loss is not acknowledged, there is another finding, or something could
     not be checked or acknowledged`,
		Example: `  versive-ingress audit
  versive-ingress audit --json | jq '.streams[].findings[]'
  versive-ingress audit --acknowledge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out, o.Notes = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return audit.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Acknowledge, "acknowledge", false, "acknowledge the losses that are printed")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON object")
	return cmd
}
