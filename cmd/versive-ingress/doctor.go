package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
)

func doctorCommand() *cobra.Command {
	var (
		asJSON bool
		c      doctor.Config
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check settings, ingress and broker against the promise",
		Long: `Check the settings of serve, the ingress that runs with them on this machine,
and its broker against the promise: that a 2xx answer means one durable event.
Each finding consists of what was found, why it matters, and a command or
setting that fixes it, ready to paste.

Nothing is changed, and nothing secret is printed. An external broker reports
its fsync policy only on its monitoring port; name the port of each server with
--monitor.

With --probe, doctor also posts a signed webhook of a type that no version
understands. It goes to the quarantine, so that no consumer of events sees it;
it is posted again with each secret, must be stored once, is read back and
discarded. Another one has the largest size that is accepted. What remains of
each is a gap of one sequence in the quarantine, the id in its duplicate window,
and a count in the metrics.

EXIT STATUS
  0  the promise holds; there may be warnings
  1  it does not hold, or webhooks are rejected
  2  neither is known, because something could not be checked`,
		Example: `  versive-ingress doctor
  versive-ingress doctor --probe --url https://hooks.example.com/webhooks/versive
  versive-ingress doctor --json | jq '.checks[].findings[]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.ProbeURL != "" && !c.Probe {
				return status2{errors.New("--url requires --probe")}
			}
			for _, address := range append(c.Monitors, c.ProbeURL) {
				if _, err := url.Parse(address); err != nil { // the error quotes the password
					return status2{errors.New("--url and --monitor: want URLs such as http://127.0.0.1:8222")}
				}
			}
			c.Settings, c.SettingsErr = config.Read()
			report := doctor.Run(cmd.Context(), c)
			if err := context.Cause(cmd.Context()); err != nil {
				return status2{err}
			}
			var err error
			if out := cmd.OutOrStdout(); asJSON {
				err = json.MarshalWrite(out, report, jsontext.WithIndent("  "), jsontext.AllowInvalidUTF8(true))
				fmt.Fprintln(out)
			} else {
				err = report.Print(out)
			}
			if err != nil {
				return status2{err}
			}
			switch report.Status {
			case doctor.Problem:
				return errors.New(report.Verdict())
			case doctor.Unknown:
				return status2{errors.New(report.Verdict())}
			}
			if !asJSON {
				fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", report.Verdict())
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return status2{err} })
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print the report as one JSON object")
	flags.BoolVar(&c.Probe, "probe", false, "post a signed webhook, read it back, and discard it")
	flags.StringVar(&c.ProbeURL, "url", "", "URL to which --probe posts, such as the public one (default: the listener of the ingress)")
	flags.BoolVar(&c.Drained, "drained", false, "report a problem if messages wait for the hub, before an edge is taken away")
	flags.DurationVar(&c.Silence, "silence", 0, "report if no event was stored for longer than this, such as 6h (default: never)")
	flags.StringSliceVar(&c.Monitors, "monitor", nil, "monitoring port of an external NATS server, such as http://127.0.0.1:8222; may be repeated")
	return cmd
}
