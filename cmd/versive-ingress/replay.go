package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/replay"
)

func replayCommand() *cobra.Command {
	var f replay.Options
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Deliver a part of the event stream again",
		Long: `Deliver a part of the event stream again, in the order of the stream, and end.
The stream itself does not change.

Without a target, write each event to standard output as one line of JSON: a
CloudEvent with the additional attributes sequence and storedat.

With --to-subject, publish each event to a NATS subject of the same broker. If
the subject ends in ".>", the event's own subject, without its first token,
replaces ">". Where a stream listens, each event is confirmed by it. Message ids
are new, so that the stream does not reject the events as duplicates; the
svix-id is in the header Ingress-Original-Id.

With --to-url, post each event to an HTTP endpoint, one after the other, signed
anew under its svix-id: with --secret, or with the first secret of the settings
that has the event's organization. Failed attempts are repeated; after 429 and
503, at the time that Retry-After names. Erased events are skipped.

The replay ends with the event that is the last one of the stream when it
starts, or earlier if --until or --last are set.

` + aboutTimes + `

With --checkpoint, the same command resumes where it was interrupted by Ctrl-C,
an error or a crash. After a crash, events of the last second may be delivered
twice; on standard output, an empty line marks where the replay has resumed.

` + aboutSettings + `

EXIT STATUS
  0  everything was delivered
  1  something was not delivered, as the error describes. Messages that the
     stream counts and cannot return, because its store is damaged, are listed
     by sequence after all others were delivered`,
		Example: `  versive-ingress replay --since 2h | jq .data.interview.id
  versive-ingress replay --study study_123 --to-subject 'again.>' --dry-run
  versive-ingress replay --first 1000 --to-url https://host/webhooks --secret whsec_… --rate 50 --checkpoint replay.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return replay.Run(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addBounds(cmd, &f.Selection)
	addFilter(cmd, &f.Selection)
	flags := cmd.Flags()
	flags.StringVar(&f.ToSubject, "to-subject", "", "publish the events to this NATS subject")
	flags.StringVar(&f.ToURL, "to-url", "", "post the events to this URL")
	flags.StringVar(&f.Secret, "secret", "", "signing secret for --to-url (default: the first of INGRESS_SECRETS and INGRESS_SECRETS_FILE that has the event's organization)")
	flags.BoolVar(&f.KeepID, "keep-id", false, "keep the message ids with --to-subject, so that a stream rejects the events that it has")
	flags.Float64Var(&f.Rate, "rate", 0, "largest number of events a second (default: unlimited)")
	flags.StringVar(&f.Checkpoint, "checkpoint", "", "file that records the progress, for resuming")
	completeFiles(cmd, "checkpoint")
	flags.BoolVar(&f.DryRun, "dry-run", false, "deliver nothing, check that the target is there, and print what would be delivered")
	flags.BoolVar(&f.Quiet, "quiet", false, "print neither progress nor summary")
	cmd.MarkFlagsMutuallyExclusive("to-subject", "to-url")
	return cmd
}
