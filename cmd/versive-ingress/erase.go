package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

const outOfReach = `An erasure does not reach:
  - what consumers have derived from the events: consumers that read the stream
    receive the tombstones, others do not;
  - streams that mirror or source from these, and what was replayed to other
    subjects or endpoints;
  - backups, snapshots, and disk space that the file system has freed but not
    reused;
  - on a cluster, the replication logs of the nodes, which keep the content for
    about three more minutes, and nodes that are away, until they are back;
  - Versive itself: request the erasure there as well. A resend of an erased
    event is not stored.
`

func eraseCommand() *cobra.Command {
	var (
		interview, study string
		yes, dryRun      bool
	)
	cmd := &cobra.Command{
		Use:   "erase (--interview ID | --study ID)",
		Short: "Erase the stored copies of an interview permanently",
		Long: `Erase every stored copy of an interview: its events, their dead letters, and the
quarantined webhooks that mention its id. The matches are listed before you are
asked for confirmation.

With --study, erase the events of a study that belong to no interview. The
interviews of the study are not affected.

Each copy is replaced by a tombstone: a message with the same subject, which
contains the interview's id, and without data. It keeps a resend from being
stored and asks consumers to erase what they have. Then the copy is overwritten
and deleted.

With an embedded broker, erase ends when the overwriting is durable, power loss
included. For that it reads INGRESS_DATA_DIR: run it on the machine of the
ingress, as its user or as root. It also finds content of an earlier erasure
that a power cut or a kill has restored; a restart of the ingress overwrites
that.

The output reports if that is not guaranteed:
  - with an external broker, or several replicas: each server overwrites its
    copy, but a power cut within the next seconds may undo that unnoticed;
  - with an encrypted store (jetstream { key }): copies are only deleted, and
    their content stays in block files, unreadable without the key, until the
    broker compacts them, if ever;
  - with a compressed stream, or a data directory that erase cannot read.

` + outOfReach + `
EXIT STATUS
  0  no copy is stored any more, even if there was none; with --dry-run, the
     copies were printed
  1  a copy may be left, as the error describes; run erase again`,
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
				e.PrintNothing(ctx, out)
				if dryRun {
					return nil
				}
				return e.Settle(ctx, out)
			}
			fmt.Fprintf(out, "found of %s%s:\n", e, e.ErasedBefore())
			if err := e.Print(out, found); err != nil || dryRun {
				return err
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Erase %s permanently?", terminal.Plural(len(found), "message", "messages"))); err != nil {
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
	flags.StringVar(&interview, "interview", "", "erase the interview with this id")
	flags.StringVar(&study, "study", "", "erase the events of the study with this id that belong to no interview")
	flags.BoolVar(&yes, "yes", false, "do not ask for confirmation")
	flags.BoolVar(&dryRun, "dry-run", false, "only print what would be erased")
	cmd.MarkFlagsOneRequired("interview", "study")
	cmd.MarkFlagsMutuallyExclusive("interview", "study")
	return cmd
}
