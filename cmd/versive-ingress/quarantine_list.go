package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
)

func listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is in the quarantine, the newest last",
		Long: `List what is in the quarantine, the newest last: age, reason, size, id.

With --json, each line is an object, with the time and what was not
understood, too. Prints nothing if the quarantine is empty, and says so on the
standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := dial(cmd.Context(), "quarantine")
			if err != nil {
				return err
			}
			defer c.close()
			list, _, err := c.readQuarantine(cmd.Context())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "the quarantine is empty")
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printTable(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func printTable(w io.Writer, list []kept) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", age(time.Since(k.Time)), k.reason(), readableSize(k.Size), k.ID)
	}
	return table.Flush()
}

func printJSON(w io.Writer, list []kept) error {
	for _, k := range list {
		line, err := json.Marshal(struct {
			Age      int64     `json:"age_seconds"`
			Reason   string    `json:"reason"`
			Size     int       `json:"size"`
			ID       string    `json:"id"`
			Detail   string    `json:"detail"`
			Time     time.Time `json:"time"`
			Sequence uint64    `json:"sequence"`
		}{int64(time.Since(k.Time).Seconds()), k.reason(), k.Size, k.ID, k.description(), k.Time, k.Sequence})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// age returns a duration in its two largest units.
func age(d time.Duration) string {
	d = max(0, d.Truncate(time.Second))
	switch s := int(d.Seconds()); {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	default:
		return d.String()
	}
}

// readableSize returns a number of bytes for people.
func readableSize(n int) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
}
