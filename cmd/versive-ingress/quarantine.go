package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/schema"
)

func quarantineCommand() *cobra.Command {
	const kind = schema.KindQuarantine
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "List, show, requeue and discard quarantined webhooks",
		Long: `The quarantine keeps, byte for byte, webhooks that were authentic but not
understood: those of an unknown event type, with a member that is missing or has
the wrong type, or that are not JSON.

Once a version of the program understands them, requeue stores them as events
under their svix-ids. Discard deletes those that will never be events.

` + aboutSettings,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		listCommand(kind, "the quarantine is empty", &cobra.Command{
			Use:   "list",
			Short: "List the quarantined webhooks, the newest last",
			Long: `List the quarantined webhooks, the newest last: age, reason, size and svix-id.
With --json, also the time, the sequence, and what was not understood. If there
are none, only a note on the standard error is printed. docs/commands.md
describes the members of --json.

EXIT STATUS
  0  the list is complete, even if it is empty
  1  the quarantine cannot be read`,
			Example: `  versive-ingress quarantine list
  versive-ingress quarantine list --json | jq -r 'select(.reason == "invalid") | [.id, .detail] | @tsv'`,
		}),
		showCommand(kind, &cobra.Command{
			Use:   "show ID",
			Short: "Show a quarantined webhook: why it was not understood, and its body",
			Long: `Show a quarantined webhook: when it was received, why it was not understood then
and whether this version understands it, its headers, and its body, in which
control characters are escaped (\x1b). The body is personal data.

EXIT STATUS
  0  the webhook was printed
  1  it is not in the quarantine, or cannot be read`,
			Example: `  versive-ingress quarantine show msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress quarantine show msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa --raw > body`,
		}),
		requeueCommand(kind, &cobra.Command{
			Use:   "requeue ID… | --all",
			Short: "Store the quarantined webhooks that this version understands",
			Long: `Store quarantined webhooks as events, if this version understands them. Each is
stored once, under its svix-id, and then removed from the quarantine for good.
The others stay. After an interruption, run the command again.

EXIT STATUS
  0  none of the chosen webhooks is left in the quarantine; with --dry-run, none
     would be
  1  some are left: they are not understood, or an error occurred`,
			Example: `  versive-ingress quarantine requeue --all --dry-run
  versive-ingress quarantine requeue --all --reason unsupported_type
  versive-ingress quarantine requeue msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa`,
		}),
		discardCommand(kind, "webhook", "webhooks", &cobra.Command{
			Use:   "discard ID… | --all",
			Short: "Delete quarantined webhooks permanently",
			Long: `Overwrite and delete quarantined webhooks, after listing them and asking for
confirmation. A resend is answered 202, and not kept again.

Like erase, discard reports whether the overwriting is verified. For that, run
it on the machine of the ingress, as its user or as root, and with its
INGRESS_DATA_DIR.

EXIT STATUS
  0  all chosen webhooks were deleted
  1  some may be left, as the error describes; or the deletion was not confirmed`,
			Example: `  versive-ingress quarantine discard msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress quarantine discard --all --reason malformed --yes`,
		}),
	)
	return cmd
}
