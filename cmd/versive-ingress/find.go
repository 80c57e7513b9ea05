package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func findCommand() *cobra.Command {
	var asJSON bool
	var f find.Finder
	cmd := &cobra.Command{
		Use:   "find ID",
		Short: "Find an event, an interview or a study, and which consumers have it",
		Long: `Print what is stored under a svix-id, an interview id or a study id: when, in
which stream, under which sequence and subject; whether it was erased; why it is
in the quarantine or among the dead letters; and for each durable consumer
whether it has acknowledged the event or has yet to receive it, and the lag of
that consumer. No content is printed.

The broker reports how many events a consumer has received and not acknowledged
(ack pending), but not which. Where that cannot be concluded, the state is
"delivered, acknowledged unless among the ack pending". "Not selected" means
that the consumer begins with later events or reads other subjects.

Of several events, such as those of a study, the newest 10 are listed. If
nothing has the id as its svix-id, the whole quarantine and all dead letters are
searched for the interview or the study.

With --organization, everything that is printed is of one organization, except
for the lag of consumers. The headers of all events of the interview or the
study are read for it. docs/commands.md describes the members of --json.

` + aboutSettings + `

EXIT STATUS
  0  something was found
  1  the streams cannot be read
  2  nothing is stored under the id`,
		Example: `  versive-ingress find msg_2bKq0PZ1vT8xW4nYcR7dLmFh3Sa
  versive-ingress find 3fa85f64-5717-4562-b3fc-2c963f66afa6
  versive-ingress find study_123 --organization acme
  versive-ingress find study_123 --json | jq '.consumers[] | {consumer, waiting}'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := strings.TrimSpace(args[0])
			if id == "" {
				return errors.New("want a svix-id, an interview id or a study id")
			}
			ctx := cmd.Context()
			c, err := broker.Dial(ctx, "find")
			if err != nil {
				return err
			}
			defer c.Close()
			f.Source = c.Source
			reports, err := f.Find(ctx, id)
			switch {
			case err != nil:
				return err
			case len(reports) == 0:
				similar, err := f.Suggest(ctx, id)
				if err != nil {
					return err
				}
				text, suggest := "nothing", "did you mean"
				if f.Organization != "" {
					text, suggest = "nothing of organization "+f.Organization, "without --organization, there is"
				}
				text += fmt.Sprintf(" is stored under the id %q", id)
				if len(similar) > 0 {
					text += "; " + suggest + " " + terminal.Printable([]byte(strings.Join(similar, ", ")))
				}
				return status2{errors.New(text)}
			case asJSON:
				return terminal.WriteJSON(cmd.OutOrStdout(), reports...)
			}
			return find.Print(cmd.OutOrStdout(), reports)
		},
	}
	addOrganization(cmd, &f.Organization)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
