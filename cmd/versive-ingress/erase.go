package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/erasure"
)

func eraseCommand() *cobra.Command {
	var o erasure.Options
	cmd := &cobra.Command{
		Use:   "erase (--interview ID | --study ID | --from-file FILE)...",
		Short: "Erase the stored copies of interviews permanently",
		Long: `Erase every stored copy of interviews: their events, the dead letters of those,
and the quarantined webhooks that mention their ids. The matches are listed
before you are asked for confirmation: at most 50, or all with --dry-run.

With --study, erase the events of a study that belong to no interview. The
interviews of the study are not affected. Flags may be repeated and combined.

Each copy is replaced by a tombstone: a message with the same subject, which
contains the interview's id, and without data. It keeps a resend from being
stored and asks consumers to erase what they have. Then the copy is overwritten
and deleted.

If erase is interrupted, run the same command again: it erases the rest. With
--record or --json, it writes a line of JSON for each interview and study: who
has erased it, when and why, and numbers of messages, but no content. Before
the erasure, --record also appends a line for each that has matches; if that
fails, nothing is erased. docs/commands.md describes the members.

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

` + erasure.OutOfReach + `
EXIT STATUS
  0  no copy is stored any more, even if there was none; with --dry-run, the
     copies were printed
  1  a copy may be left, as the error describes, or the record was not written;
     run erase again`,
		Example: `  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6 --dry-run
  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6
  versive-ingress erase --study study_123
  versive-ingress erase --from-file ids.txt --yes --reason 'request 17' --record erasures.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.In, o.Out, o.Notes = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return erasure.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.Interviews, "interview", nil, "erase the interview with this id; may be repeated")
	flags.StringArrayVar(&o.Studies, "study", nil, "erase the events of the study with this id that belong to no interview; may be repeated")
	flags.StringVar(&o.FromFile, "from-file", "", "erase the interviews with the ids in this file, one a line; - is the standard input")
	flags.BoolVar(&o.Yes, "yes", false, "do not ask for confirmation")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only print what would be erased")
	flags.StringVar(&o.Reason, "reason", "", "why, for the record")
	flags.StringVar(&o.Record, "record", "", "append the record to this file, as JSON lines")
	flags.BoolVar(&o.JSON, "json", false, "print the record as JSON lines, and everything else to the standard error")
	completeFiles(cmd, "from-file", "record")
	cmd.MarkFlagsOneRequired("interview", "study", "from-file")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "json")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "record")
	return cmd
}
