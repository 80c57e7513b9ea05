package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func missingCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "missing",
		Short: "Print which interviews of a list are not stored",
		Long: `Read interview ids from the standard input, one a line, such as an export of
Versive, and print those of which nothing is stored, in the order of the list,
each once (in a list of up to 1,000,000). Blank lines, a byte order mark and
carriage returns are skipped.

An interview that is only in the quarantine is not missing, nor is an erased
one: the summary on the standard error counts them. With --json, an object is
printed for each interview that has no event, whatever the reason.

Up to 1000 interviews are looked up one by one. For a longer list, the subjects
of all events are listed, or, if there are more than 100,000 or some were
erased, the headers of all events are read.

` + aboutSettings + `

EXIT STATUS
  0  none is missing
  1  the list or the streams cannot be read
  2  some are missing`,
		Example: `  versive-ingress missing < ids.txt
  tail -n +2 export.csv | cut -d, -f1 | versive-ingress missing > missing.txt
  versive-ingress missing --json < ids.txt | jq -r 'select(.state == "quarantined").interview'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, errOut := cmd.Context(), cmd.ErrOrStderr()
			c, err := broker.Dial(ctx, "missing")
			if err != nil {
				return err
			}
			defer c.Close()
			if terminal.IsTerminal(cmd.InOrStdin()) {
				fmt.Fprintln(errOut, "reading interview ids, one a line; Ctrl-D ends the list")
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			counts, total := map[find.Absence]int{}, 0
			for list, err := range find.ReadInterviews(cmd.InOrStdin(), find.Part) {
				if err != nil {
					return err
				}
				if err := (find.Finder{Source: c.Source}).Missing(ctx, list, terminal.NewProgress(errOut, terminal.IsTerminal(errOut))); err != nil {
					return err
				}
				for id, state := range list.All() {
					counts[state]++
					total++
					switch {
					case asJSON && state != find.Stored:
						if err := terminal.WriteJSON(out, struct {
							Interview string       `json:"interview"`
							State     find.Absence `json:"state"`
						}{id, state}); err != nil {
							return err
						}
					case !asJSON && state == find.Missing:
						fmt.Fprintln(out, id)
					}
				}
				if err := out.Flush(); err != nil {
					return err
				}
			}
			if total == 0 {
				return errors.New("the standard input has no ids")
			}
			var parts []string
			for _, state := range [...]find.Absence{find.Stored, find.Missing, find.Quarantined, find.Erased} {
				if n := counts[state]; n > 0 || state == find.Missing || state == find.Stored {
					parts = append(parts, fmt.Sprintf("%d %s", n, state))
				}
			}
			summary := fmt.Sprintf("%s: %s", terminal.Plural(total, "interview", "interviews"), strings.Join(parts, ", "))
			if counts[find.Missing] == total {
				summary += "; " + broker.SeeFind
			}
			if counts[find.Missing] > 0 {
				return status2{errors.New(summary)}
			}
			fmt.Fprintln(errOut, summary)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, also for quarantined and erased interviews")
	return cmd
}
