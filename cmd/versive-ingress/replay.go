package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// replayFlags are those of the command line.
type replayFlags struct {
	selection  selectionFlags
	toSubject  string
	toURL      string
	secret     string
	keepID     bool
	rate       float64 // events a second; 0 is no limit
	checkpoint string  // file
	dryRun     bool
	quiet      bool
}

func replayCommand() *cobra.Command {
	var f replayFlags
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
		RunE: func(cmd *cobra.Command, _ []string) error { return runReplay(cmd, f) },
	}
	f.selection.addBounds(cmd)
	f.selection.addFilter(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.toSubject, "to-subject", "", "publish to this NATS subject")
	flags.StringVar(&f.toURL, "to-url", "", "post to this URL")
	flags.StringVar(&f.secret, "secret", "", "with --to-url: signing secret (default: the first of INGRESS_SECRETS)")
	flags.BoolVar(&f.keepID, "keep-id", false, "with --to-subject: keep the message ids; what a stream knows, it does not store again")
	flags.Float64Var(&f.rate, "rate", 0, "at most this many events a second")
	flags.StringVar(&f.checkpoint, "checkpoint", "", "file in which to keep how far it has come")
	flags.BoolVar(&f.dryRun, "dry-run", false, "deliver nothing; tell how much it would be")
	flags.BoolVar(&f.quiet, "quiet", false, "write nothing but errors to standard error")
	return cmd
}

func runReplay(cmd *cobra.Command, f replayFlags) error {
	ctx := cmd.Context()
	sel, err := f.selection.selection(cmd, time.Now())
	if err != nil {
		return err
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	// Not closed by Ctrl-C: what was sent is still confirmed then.
	conn, err := broker.Dial(context.WithoutCancel(ctx), "replay")
	if err != nil {
		return err
	}
	defer conn.Close()

	r := &replay{conn: conn, file: f.checkpoint}
	if err := r.begin(ctx, sel, f); err != nil {
		return err
	}
	if f.dryRun {
		return r.dryRun(ctx, cmd.OutOrStdout())
	}
	out := cmd.ErrOrStderr()
	if r.Finished {
		if !f.quiet {
			fmt.Fprintf(out, "finished before: %v; to deliver it again, remove %s\n", r.Done, r.file)
		}
		return nil
	}
	if !f.quiet {
		lines := f.toSubject == "" && f.toURL == "" && terminal.IsTerminal(cmd.OutOrStdout()) // the bar would stand among them
		r.progress = terminal.NewProgress(out, terminal.IsTerminal(out) && !lines)
	}
	if r.target, err = r.open(ctx, f, cmd.OutOrStdout()); err != nil {
		return err
	}
	defer r.target.close()
	if f.rate > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(f.rate), 1)
	}

	start, before := time.Now(), r.Done.Events
	err = r.run(ctx)
	r.progress.Clear()
	if err != nil {
		return err
	}
	if !f.quiet {
		took := time.Since(start)
		fmt.Fprintf(out, "replayed %v, to %s in %v (%.0f/s)\n", r.Done, r.Of.Target, took.Round(time.Millisecond), float64(r.Done.Events-before)/took.Seconds())
		if f.toURL != "" && r.Done.Erasures > 0 {
			fmt.Fprintf(out, "not sent: the %d erasures, for which there is no webhook; tell the endpoint's owner\n", r.Done.Erasures)
		}
		if f.keepID && r.Done.Duplicates > 0 {
			fmt.Fprintf(out, "the target had %d of them before\n", r.Done.Duplicates)
		}
	}
	return nil
}

// check refuses flags that contradict each other.
func (f *replayFlags) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case f.toSubject != "" && f.toURL != "":
		return errors.New("--to-subject and --to-url: give one of them")
	case changed("secret") && f.toURL == "":
		return errors.New("--secret is for --to-url")
	case f.keepID && f.toSubject == "":
		return errors.New("--keep-id is for --to-subject")
	case changed("rate") && !(f.rate > 0):
		return fmt.Errorf("--rate %v: want more than 0 events a second", f.rate)
	case changed("checkpoint") && f.checkpoint == "":
		return errors.New("--checkpoint: want the name of a file")
	case changed("to-subject"):
		return checkSubject(f.toSubject)
	case changed("to-url"):
		if _, err := parseURL(f.toURL); err != nil {
			return err
		}
		return new(sender.Sender).SignWith(f.secret)
	}
	return nil
}

// target names the target, without secrets.
func (f *replayFlags) target() string {
	switch {
	case f.toSubject != "" && f.keepID:
		return "subject " + f.toSubject + " with the same ids"
	case f.toSubject != "":
		return "subject " + f.toSubject
	case f.toURL != "":
		u, _ := parseURL(f.toURL)
		return shownURL(u)
	default:
		return "standard output"
	}
}
