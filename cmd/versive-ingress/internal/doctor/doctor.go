// Package doctor checks a set-up against the promise that a 2xx answer means one
// durable event: the settings, the ingress that runs with them, its broker, and what
// the streams hold.
package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
)

// A Config is what Run checks, and how.
type Config struct {
	Settings    config.Settings
	SettingsErr error // why Settings could not be read; nil if they were

	Probe    bool     // post a signed webhook, find it in the quarantine, and discard it
	ProbeURL string   // where to post it; "" is the webhook listener of Settings
	Monitors []string // URLs of the monitoring ports of an external broker's servers

	Drained bool          // report messages that wait for the hub
	Silence time.Duration // longest time without a new event; 0 is unlimited

	Now       func() time.Time           // nil is time.Now
	Addresses func() ([]net.Addr, error) // of this machine; nil is net.InterfaceAddrs
	Roots     *x509.CertPool             // the authorities that senders trust; nil is those of the system
	Idle      time.Duration              // how long a consumer may be without activity; 0 is 5 minutes
	Lag       time.Duration              // how old an event may be that a consumer has not read; 0 is 1 hour
}

const (
	checkTimeout   = 15 * time.Second              // of one check
	senderSchedule = 27*time.Hour + 35*time.Minute // how long the sender retries a webhook
)

// A doctor makes the checks. A check sets what later ones need.
type doctor struct {
	Config

	running     bool                   // the ingress answers
	metrics     metrics                // of the ingress
	served      *x509.Certificate      // by its webhook listener; nil if there is none
	secrets     []string               // if they are valid
	sameSecrets bool                   // the ingress has them
	broker      *broker.Connection     // nil if there is none
	account     *jetstream.AccountInfo // nil if the broker cannot be used
	events      jetstream.Stream       // nil if there is none

	stop   atomic.Pointer[context.CancelFunc] // ends the current check
	denied atomic.Pointer[error]              // of a request of the current check; nil if there is none
}

// The checks are in the order in which an event passes what they check.
var checks = []struct {
	name  string
	needs string // besides the settings
	run   func(*doctor, context.Context, *Result)
}{
	{"settings", "", (*doctor).checkSettings},
	{"ingress", "", (*doctor).checkIngress},
	{"certificate", "", (*doctor).checkCertificate},
	{"secrets", "", (*doctor).checkSecrets},
	{"broker", "", (*doctor).checkBroker},
	{"store", "broker", (*doctor).checkStore},
	{"hub", "broker", (*doctor).checkHub},
	{"losses", "", (*doctor).checkLosses},
	{"events", "broker", (*doctor).checkEvents},
	{"clock", "stream", (*doctor).checkClock},
	{"quarantine", "broker", (*doctor).checkQuarantine},
	{"consumers", "stream", (*doctor).checkConsumers},
	{"dead letters", "broker", (*doctor).checkDeadLetters},
	{"probe", "", (*doctor).checkProbe},
}

// Run makes all checks. They change nothing, except that a probe leaves gaps in the
// sequences of the quarantine. If ctx ends, the report is incomplete.
func Run(ctx context.Context, c Config) Report {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Addresses == nil {
		c.Addresses = net.InterfaceAddrs
	}
	c.Idle, c.Lag = cmp.Or(c.Idle, 5*time.Minute), cmp.Or(c.Lag, time.Hour)
	d := &doctor{Config: c}
	defer func() {
		if d.broker != nil {
			d.broker.Close()
		}
	}()
	var report Report
	for i, check := range checks {
		r, endpoint := Result{Check: check.name, Status: OK}, broker.Endpoint(d.Settings)
		if check.name == "hub" {
			if endpoint = d.Settings.Hub(); endpoint.URL == "" && !d.Drained {
				continue // this is not an edge
			}
		}
		switch {
		case i > 0 && d.SettingsErr != nil:
			r.skip("not checked: the settings cannot be read")
		case check.needs != "" && d.account == nil:
			r.skip("not checked: it needs the broker")
		case check.needs == "stream" && d.events == nil:
			r.skip("not checked: it needs the stream")
		default:
			ctx, cancel := d.bound(ctx, checkTimeout)
			check.run(d, ctx, &r)
			cancel()
			if denied := d.denied.Swap(nil); denied != nil {
				r.explain(*denied)
			}
			addFlags(r.Findings, endpoint)
		}
		report.Status = max(report.Status, r.Status)
		report.Checks = append(report.Checks, r)
	}
	return report
}

// bound returns a context that ends after a time, or when the broker denies a request,
// which it does not answer.
func (d *doctor) bound(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	d.stop.Store(&cancel)
	return ctx, cancel
}

// deny ends the current check if err is that of a denied request.
func (d *doctor) deny(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		d.denied.Store(&err)
		(*d.stop.Load())()
	}
}

// addFlags makes remedies for the nats command reach a broker.
func addFlags(findings []Finding, e config.Endpoint) {
	for i := range findings {
		if command, ok := strings.CutPrefix(findings[i].Remedy, "nats "); ok && !strings.HasPrefix(command, "--server") {
			findings[i].Remedy = broker.CLI(e) + " " + command
			if e.Creds+e.NKey != "" && strings.HasPrefix(command, "stream edit ") {
				findings[i].Remedy += "  # with the key of a user that may edit it, such as that of the ingress"
			}
		}
	}
}
