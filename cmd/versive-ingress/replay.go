package main

import (
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/replay"
)

func replayCommand() *cobra.Command {
	var f replay.Options
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Deliver a part of the stream again",
		Long: `Deliver a part of the event stream again, in its order, and end.

Without a target, write each event to standard output as one line of JSON: a
CloudEvent with the attributes sequence and storedat beside its own.

With --to-subject, publish to a NATS subject of the same broker; if it ends in
".>", each event's own subject stands there in place of ">", without its first
token. Where a stream listens, it confirms each event. The message ids are new,
so that a stream does not take the events for duplicates; the svix-id is in the
header Ingress-Original-Id.

With --to-url, post to an HTTP endpoint, signed anew under the svix-id, one
after the other. 429 and 503 are waited out as Retry-After asks. Erased events
have no webhook and are passed over.

Without a bound, it ends with what was the last event when it started.
` + aboutTimes + `

With --checkpoint, the same command goes on where it was interrupted, by Ctrl-C,
an error or a crash; after a crash, what was delivered in the last second may be
delivered twice. On standard output an empty line stands where it went on.

Settings are those of serve.

EXIT STATUS
  0  everything was delivered
  1  something was not: the error says what. Messages that the stream counts and
     cannot return, because its store is damaged, are named by sequence after all
     others were delivered`,
		Example: `  versive-ingress replay --since 2h | jq .data.interview.id
  versive-ingress replay --study study_123 --to-subject 'again.>' --dry-run
  versive-ingress replay --first 1000 --to-url https://host/webhooks --secret whsec_… --rate 50 --checkpoint replay.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sel, err := f.Selection.Resolve(cmd.Flags().Changed, time.Now())
			if err != nil {
				return err
			}
			if err := f.Check(cmd.Flags().Changed); err != nil {
				return err
			}
			return replay.Run(cmd.Context(), f, sel, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addBounds(cmd, &f.Selection)
	addFilter(cmd, &f.Selection)
	flags := cmd.Flags()
	flags.StringVar(&f.ToSubject, "to-subject", "", "publish to this NATS subject")
	flags.StringVar(&f.ToURL, "to-url", "", "post to this URL")
	flags.StringVar(&f.Secret, "secret", "", "with --to-url: signing secret (default: the first of INGRESS_SECRETS)")
	flags.BoolVar(&f.KeepID, "keep-id", false, "with --to-subject: keep the message ids; what a stream knows, it does not store again")
	flags.Float64Var(&f.Rate, "rate", 0, "at most this many events a second")
	flags.StringVar(&f.Checkpoint, "checkpoint", "", "file in which to keep how far it has come")
	flags.BoolVar(&f.DryRun, "dry-run", false, "deliver nothing; tell how much it would be")
	flags.BoolVar(&f.Quiet, "quiet", false, "write nothing but errors to standard error")
	return cmd
}
