package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

const outOfReach = `It does not reach the following; see to them yourself:
  - what consumers have made of the events: consumers that read the stream get
    the tombstones, others do not;
  - streams that mirror or source from these, and what was replayed to other
    subjects or endpoints;
  - backups, snapshots, and disk space that the file system has freed but not
    used again;
  - on a cluster, the nodes' replication logs, which keep the content for about
    three minutes more, and nodes that are away, until they are back;
  - Versive itself: ask there as well. A resend of an erased event is refused.
`

func eraseCommand() *cobra.Command {
	var (
		interview, study string
		yes, dryRun      bool
	)
	cmd := &cobra.Command{
		Use:   "erase (--interview ID | --study ID)",
		Short: "Remove an interview's stored copies for good",
		Long: `Remove every stored copy of an interview: its events, what the quarantine keeps
of it (whatever mentions the id, for its content was not understood), and the
dead letters of its events. Shows what it found and asks; --yes does not.

With --study, remove the events of a study that belong to no interview, and
nothing of its interviews.

A tombstone takes the place of each copy: the same subject, so the interview's
id stays, and no data. It keeps a resend from being stored again, and asks
consumers to erase what they have. Then the copy is overwritten and deleted.

On an embedded broker, erase ends when the overwriting is durable, power loss
included. For that it needs the ingress's INGRESS_DATA_DIR, on the same machine
and as the same user, or as root. It also finds what a power cut or a kill has
brought back from an earlier erasure; a restart of the ingress overwrites that.

The output says where that is not guaranteed:
  - an external broker, or more than one replica: each server overwrites its
    copy, but a power cut within the next seconds may undo that, unnoticed;
  - an encrypted store (jetstream { key }): copies are only deleted. Their content
    stays in block files, unreadable without the key, until the broker compacts
    them, if ever;
  - a compressed stream, or a data directory that erase cannot read: the output
    says what to do.

EXIT STATUS
  0  no copy is stored any more, even if there was none; the output says which,
     and what is not guaranteed
  1  something may be left; the error says what to do. Running erase again is
     always safe

` + outOfReach,
		Example: `  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6 --dry-run
  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6
  versive-ingress erase --study study_123`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id := interview + study; id == "" || len(id) > schema.MaxIDLen {
				return fmt.Errorf("--interview or --study: want an id of 1 to %d bytes", schema.MaxIDLen)
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			c, err := broker.Dial(ctx, "erase")
			if err != nil {
				return err
			}
			defer c.Close()
			e := erasure.New(c, interview, study)
			found, err := e.Find(ctx)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				fmt.Fprintf(out, "nothing is stored of %s%s\n", e, e.ErasedBefore())
				if dryRun {
					return nil
				}
				return e.Settle(ctx, out)
			}
			fmt.Fprintf(out, "found of %s%s:\n", e, e.ErasedBefore())
			if err := e.Print(out, found); err != nil {
				return err
			}
			if dryRun {
				return nil
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Erase %s for good?", terminal.Plural(len(found), "message", "messages"))); err != nil {
					return err
				}
			}
			erased, err := e.Run(ctx, found)
			fmt.Fprintf(out, "erased: %d\n", erased)
			if err == nil {
				err = e.Settle(ctx, out)
			}
			fmt.Fprintf(out, "\n%s", outOfReach)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&interview, "interview", "", "id of the interview to erase")
	flags.StringVar(&study, "study", "", "id of the study to erase, except its interviews")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dryRun, "dry-run", false, "only show what would be erased")
	cmd.MarkFlagsOneRequired("interview", "study")
	cmd.MarkFlagsMutuallyExclusive("interview", "study")
	return cmd
}
