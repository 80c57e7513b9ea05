package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
)

// senderSchedule is for how long the sender retries: 8 attempts.
const senderSchedule = 27*time.Hour + 35*time.Minute

func doctorCommand() *cobra.Command {
	var (
		asJSON bool
		d      = doctor{now: time.Now, idle: 5 * time.Minute, lag: time.Hour}
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
it is read back, posted again with each secret, must be stored once, and is
discarded. What remains is a gap of one sequence in the quarantine, the id in
its duplicate window, and a count in the metrics. A message that the event
stream must reject is published as well; nothing of it is stored.

EXIT STATUS
  0  the promise holds; there may be warnings
  1  it does not hold, or webhooks are rejected
  2  neither is known, because something could not be checked`,
		Example: `  versive-ingress doctor
  versive-ingress doctor --probe --url https://hooks.example.com/webhooks/versive
  versive-ingress doctor --json | jq '.checks[].findings[]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.url != "" && !d.probe {
				return unchecked{errors.New("--url requires --probe")}
			}
			d.settings, d.unread = config.Read()
			r := d.examine(cmd.Context())
			if err := context.Cause(cmd.Context()); err != nil {
				return unchecked{err}
			}
			write := r.print
			if asJSON {
				write = r.printJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return unchecked{err}
			}
			return r.err()
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unchecked{err} })
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print the report as one JSON object")
	flags.BoolVar(&d.probe, "probe", false, "post a signed webhook, read it back, and discard it")
	flags.StringVar(&d.url, "url", "", "URL to which --probe posts, such as the public one (default: the listener of the ingress)")
	flags.StringSliceVar(&d.monitors, "monitor", nil, "monitoring port of an external NATS server, such as http://127.0.0.1:8222; may be repeated")
	return cmd
}

// A doctor checks one set-up. The checks run in the order of an event's way,
// and leave behind what later ones need.
type doctor struct {
	settings config.Settings
	unread   error // why the settings could not be read
	probe    bool
	url      string   // where to probe; "" is the listener of settings
	monitors []string // URLs of the brokers' monitoring

	now   func() time.Time
	roots *x509.CertPool // by which senders trust; nil is the system's
	idle  time.Duration  // for how long a consumer may leave what waits for it
	lag   time.Duration  // how old an event may be that a consumer has not read

	dialable bool                         // the settings name a broker
	running  bool                         // the ingress answers
	metrics  map[string]*dto.MetricFamily // of the ingress
	secrets  []configured                 // that can be used
	broker   *broker.Connection           // nil without one
}

// A check looks at one part of the set-up. It returns what it has seen, in a
// few words, and what is wrong with it.
type check struct {
	name string
	run  func(*doctor, context.Context) (seen string, findings []Finding)
	// skip returns why the check cannot be made, or "".
	skip func(*doctor) string
}

var checks = []check{
	{"settings", (*doctor).checkSettings, nil},
	{"ingress", (*doctor).checkIngress, needsSettings},
	{"certificate", (*doctor).checkCertificate, needsSettings},
	{"secrets", (*doctor).checkSecrets, needsSettings},
	{"broker", (*doctor).checkBroker, needsSettings},
	{"clock", (*doctor).checkClock, needsBroker},
	{"store", (*doctor).checkStore, needsBroker},
	{"losses", (*doctor).checkLosses, needsSettings},
	{"events", (*doctor).checkEvents, needsBroker},
	{"quarantine", (*doctor).checkQuarantine, needsBroker},
	{"consumers", (*doctor).checkConsumers, needsBroker},
	{"dead letters", (*doctor).checkDeadLetters, needsBroker},
	{"probe", (*doctor).checkProbe, needsProbe},
}

func needsSettings(d *doctor) string {
	if d.unread != nil {
		return "not checked: the settings cannot be read"
	}
	return ""
}

func needsBroker(d *doctor) string {
	if d.broker == nil {
		return "not checked: it needs the broker"
	}
	return ""
}

func needsProbe(d *doctor) string {
	switch {
	case !d.probe:
		return "not made; --probe makes it"
	case !d.running || d.broker == nil || len(d.secrets) == 0:
		return "not checked: it needs an ingress, its secrets and its broker"
	}
	return ""
}

// checkTimeout bounds one check.
const checkTimeout = 15 * time.Second

// examine makes all checks.
func (d *doctor) examine(ctx context.Context) report {
	defer func() {
		if d.broker != nil {
			d.broker.Close()
		}
	}()
	var r report
	for _, c := range checks {
		if c.skip != nil {
			if why := c.skip(d); why != "" {
				r.add(result{Check: c.name, Status: skipped, Seen: why})
				continue
			}
		}
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		seen, findings := c.run(d, ctx)
		cancel()
		r.add(result{Check: c.name, Seen: seen, Findings: findings})
	}
	return r
}

// unanswered is the finding of a check that could not be made.
func unanswered(what string, err error, remedy string) Finding {
	return Finding{
		"unanswered", Unknown, fmt.Sprintf("%s: %v", what, err),
		"what cannot be read cannot be checked", remedy,
	}
}
