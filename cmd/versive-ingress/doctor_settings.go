package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/ingest"
	"versive-ingress/publish"
)

func (d *doctor) checkSettings(context.Context) (seen string, findings []Finding) {
	wrong := func(err error) []Finding {
		return []Finding{{"settings", Problem, err.Error(), "serve does not start with it", remedyForSetting(err)}}
	}
	if d.unread != nil {
		return "", wrong(d.unread)
	}
	s := d.settings
	d.dialable = s.CheckBroker() == nil
	seen = "embedded broker in " + s.DataDir
	if s.NATSURL != "" {
		seen = "broker " + publish.Addresses(s.NATSURL)
	}
	seen += ", stream " + s.Stream

	s.Secrets, s.SecretsFile = []string{config.NewSecret()}, "" // they have a check of their own
	if err := s.Check(); err != nil {
		return seen, wrong(err)
	}
	if err := s.CheckFiles(); err != nil {
		d.dialable = false
		return seen, wrong(err)
	}
	return seen, nil
}

var settingName = regexp.MustCompile(`^INGRESS_[A-Z0-9_]+`)

// remedyForSetting returns the setting that an error begins with as it could
// be.
func remedyForSetting(err error) string {
	name := settingName.FindString(err.Error())
	for _, f := range config.Fields() {
		switch {
		case f.Name != name:
		case strings.HasSuffix(name, "_CERT"), strings.HasSuffix(name, "_KEY"), strings.HasSuffix(name, "_CA"),
			strings.HasSuffix(name, "_CREDS"), strings.HasSuffix(name, "_NKEY"), strings.HasSuffix(name, "_CONFIG"):
			return fmt.Sprintf("export %s=/path/to/file  # or: unset %s", name, name)
		case f.Default != "":
			return fmt.Sprintf("unset %s  # the default is %s", name, f.Default)
		}
	}
	if name != "" {
		return "unset " + name
	}
	return "versive-ingress serve --help"
}

// A configured secret is one of the settings, by its place in them.
type configured struct {
	position int // from 1
	secret   string
}

const setSecret = "export INGRESS_SECRETS=whsec_…  # from the endpoint's page"

// checkSecrets checks the secrets that are configured, and what those of the
// running ingress are good for.
func (d *doctor) checkSecrets(context.Context) (seen string, findings []Finding) {
	secrets, err := d.settings.ListSecrets()
	if err != nil {
		return "", []Finding{{"secrets_file", Problem, err.Error(), "serve does not start without it", fmt.Sprintf("ls -l %s", filepath.Clean(d.settings.SecretsFile))}}
	}
	if len(secrets) == 0 {
		return "", []Finding{{"secret_missing", Problem, "INGRESS_SECRETS is not set, nor INGRESS_SECRETS_FILE", "without a secret nothing can be verified", setSecret}}
	}
	first := make(map[string]int)
	for i, secret := range secrets {
		key := strings.TrimPrefix(secret, "whsec_")
		if err := ingest.CheckSecret(secret); err != nil {
			findings = append(findings, Finding{
				"secret_invalid", Problem, fmt.Sprintf("secret %d of %d %v", i+1, len(secrets), err),
				"serve does not start with it", setSecret,
			})
			continue
		}
		if before, ok := first[key]; ok {
			findings = append(findings, Finding{
				"secret_duplicate", Warning, fmt.Sprintf("secrets %d and %d of %d are the same", before, i+1, len(secrets)),
				"one of them was meant to be another, the new one of a rotation perhaps", setSecret,
			})
			continue
		}
		first[key] = i + 1
		d.secrets = append(d.secrets, configured{i + 1, secret})
	}
	uses := d.secretUses()
	seen = terminal.Plural(len(secrets), "secret", "secrets")
	for _, u := range uses {
		seen += "; " + u.String()
	}
	findings = append(findings, d.silentSecrets(uses)...)
	return seen, append(findings, d.refusals()...)
}

// A secretUse is what the running ingress says of one of its secrets.
type secretUse struct {
	position, fingerprint string
	verified              float64
	last                  time.Duration // ago; since the start if it never verified
}

func (u secretUse) String() string {
	name := fmt.Sprintf("%s (%s)", u.position, u.fingerprint)
	if u.verified == 0 {
		return name + " has verified nothing"
	}
	return fmt.Sprintf("%s has verified %.0f, the last %s ago", name, u.verified, terminal.Age(u.last))
}

func (d *doctor) secretUses() []secretUse {
	started := d.since(d.value("process_start_time_seconds"))
	var uses []secretUse
	for _, m := range d.metrics["versive_ingress_secret_verified_total"].GetMetric() {
		u := secretUse{label(m, "position"), label(m, "fingerprint"), m.GetCounter().GetValue(), started}
		if at := d.value("versive_ingress_secret_last_verified_timestamp_seconds", "position", u.position); at > 0 {
			u.last = d.since(at)
		}
		uses = append(uses, u)
	}
	return uses
}

// since returns how long ago a time is, in Unix seconds.
func (d *doctor) since(seconds float64) time.Duration {
	return d.now().Sub(time.UnixMilli(int64(seconds * 1000)))
}

// silence is for how long a rotated secret signs on by itself: the sender adds
// the signature of the old one for a day.
const silence = 24 * time.Hour

// silentSecrets finds the secrets that may go.
func (d *doctor) silentSecrets(uses []secretUse) (findings []Finding) {
	if !slices.ContainsFunc(uses, func(u secretUse) bool { return u.verified > 0 && u.last < silence }) {
		return nil
	}
	for _, u := range uses {
		if u.last >= silence {
			findings = append(findings, Finding{
				"secret_unused", Warning, fmt.Sprintf("secret %s (%s) has verified nothing for %s, while another has", u.position, u.fingerprint, terminal.Age(u.last)),
				"a secret that is not needed can only be stolen", d.removeSecret(u.position),
			})
		}
	}
	return findings
}

func (d *doctor) removeSecret(position string) string {
	if d.settings.SecretsFile != "" && len(d.settings.Secrets) == 0 {
		return fmt.Sprintf("${EDITOR:-vi} %s  # remove secret %s", d.settings.SecretsFile, position)
	}
	return fmt.Sprintf("export INGRESS_SECRETS=$(echo \"$INGRESS_SECRETS\" | tr , '\\n' | sed %sd | paste -sd, -)  # and restart", position)
}

// refusals reads from what the ingress has refused whether it was set up for
// another sender. Where anything was accepted, a refusal is a forger's.
func (d *doctor) refusals() []Finding {
	count := func(outcome, reason string) float64 {
		return d.value("versive_ingress_requests_total", "outcome", outcome, "reason", reason)
	}
	for _, outcome := range []string{"stored", "duplicate", "quarantined"} {
		if d.value("versive_ingress_requests_total", "outcome", outcome) > 0 {
			return nil
		}
	}
	if n := count("unauthorized", "signature"); n > 0 {
		return []Finding{{
			"secret_wrong", Warning, fmt.Sprintf("no webhook was accepted yet, and %.0f had a signature that no secret verifies", n),
			"if these are the sender's, the secret is that of another endpoint", setSecret,
		}}
	}
	if n := count("unauthorized", "timestamp_too_old") + count("unauthorized", "timestamp_too_new"); n > 0 {
		return []Finding{{
			"timestamps_refused", Warning, fmt.Sprintf("no webhook was accepted yet, and %.0f had a timestamp outside of INGRESS_TOLERANCE, %s", n, d.settings.Tolerance),
			"if these are the sender's, the clock of this machine is wrong", syncClock,
		}}
	}
	return nil
}

const syncClock = "sudo timedatectl set-ntp true && timedatectl timesync-status"
