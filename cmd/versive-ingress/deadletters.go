package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/schema"
)

func deadlettersCommand() *cobra.Command {
	const kind = schema.KindDead
	cmd := &cobra.Command{
		Use:   "deadletters",
		Short: "List, show, requeue and discard what consumers have given up on",
		Long: `A dead letter is an event, or the erasure of one, on which a consumer has given
up. The others have it, and it is still in the event stream.

Once the consumer can handle it, requeue delivers it to that consumer once more.
Discard deletes the dead letters that need no further action.

` + aboutSettings,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		listCommand(kind, "there are no dead letters", &cobra.Command{
			Use:   "list",
			Short: "List the dead letters, the newest last",
			Long: `List the dead letters, the newest last: age, consumer, state, size, svix-id, and
the consumer's error. The state is waits, requeued (its consumer has not handled
it yet), or erased (an erasure was interrupted; run erase again). If there are
none, only a note on the standard error is printed. docs/commands.md describes
the members of --json.

EXIT STATUS
  0  the list is complete, even if it is empty
  1  the dead letters cannot be read`,
			Example: `  versive-ingress deadletters list --consumer reports
  versive-ingress deadletters list --json | jq -r .id`,
		}),
		showCommand(kind, &cobra.Command{
			Use:   "show ID",
			Short: "Show a dead letter: why its consumer has given up, and the event",
			Long: `Show the dead letters of an event: which consumer has given up on it, when,
after how many deliveries and with which error, whether it was requeued, and the
data of the event, in which control characters are escaped (\x1b). The data is
personal.

EXIT STATUS
  0  the dead letters were printed
  1  there is none of this id, or it cannot be read`,
			Example: `  versive-ingress deadletters show msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress deadletters show msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa --consumer reports --raw`,
		}),
		requeueCommand(kind, &cobra.Command{
			Use:   "requeue ID… | --all",
			Short: "Have the consumers handle their dead letters once more",
			Long: `Have dead letters handled once more: each by the consumer that has given up on
it, and by no other one, with the same svix-id and with new attempts. When the
handler has returned, the dead letter is deleted; if the consumer gives up
again, the dead letter has the new error. Until then, list shows it as requeued.
An event that was erased is not handled.

The consumer must use the package subscribe of this version. After an
interruption, run the command again: no dead letter is requeued twice.

EXIT STATUS
  0  all chosen dead letters were requeued, now or before; with --dry-run, they
     would be
  1  some were not: their consumers do not read requeued dead letters here, they
     are being erased, or an error occurred`,
			Example: `  versive-ingress deadletters requeue --all --consumer reports
  versive-ingress deadletters requeue msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa`,
		}),
		discardCommand(kind, "dead letter", "dead letters", &cobra.Command{
			Use:   "discard ID… | --all",
			Short: "Delete dead letters permanently",
			Long: `Overwrite and delete dead letters, after listing them and asking for
confirmation. The events stay in the event stream. A dead letter that was
requeued is not handled any more, unless that has begun.

Like erase, discard reports whether the overwriting is verified. For that, run
it on the machine of the ingress, as its user or as root, and with its
INGRESS_DATA_DIR.

EXIT STATUS
  0  all chosen dead letters were deleted
  1  some may be left, as the error describes; or the deletion was not confirmed`,
			Example: `  versive-ingress deadletters discard msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress deadletters discard --all --consumer reports --yes`,
		}),
	)
	return cmd
}
