package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/ingest"
	"versive-ingress/publish"
)

var settingName = regexp.MustCompile(`^INGRESS_[A-Z0-9_]+`)

func (d *doctor) checkSettings(_ context.Context, r *Result) {
	s, err := &d.Settings, d.SettingsErr
	if err == nil {
		r.Seen = "embedded broker in " + s.DataDir
		if d.external() {
			r.Seen = "broker " + publish.Addresses(s.NATSURL)
		}
		r.Seen += ", stream " + s.Stream
		err = cmp.Or(s.CheckValues(), s.CheckFiles())
	}
	const retried = "the sender retries for 27 h 35 m, and a retry of an event that is gone by then is stored again"
	switch {
	case err != nil:
		remedy := "versive-ingress serve --help"
		if name := settingName.FindString(err.Error()); name != "" {
			remedy = fmt.Sprintf("unset %s  # or correct it: %s", name, remedy)
		}
		r.fails("settings", err, "serve does not start with it", remedy)
	case s.MaxAge > 0 && s.MaxAge < senderSchedule:
		r.add(Problem, "age_short", fmt.Sprintf("INGRESS_MAX_AGE is %s", s.MaxAge), retried, "export INGRESS_MAX_AGE=48h  # or longer; and restart")
	case s.MaxBody > 0 && s.MaxBody < smallBody:
		r.add(Warning, "body_limit_small", fmt.Sprintf("INGRESS_MAX_BODY is %v", s.MaxBody), "a long interview may be larger; it is answered 413 on every retry, and is then lost",
			"unset INGRESS_MAX_BODY  # and restart: the default is 8MiB")
	case s.DedupeWindow < senderSchedule:
		r.add(Warning, "window_short", fmt.Sprintf("INGRESS_DEDUPE_WINDOW is %s", s.DedupeWindow), retried, "unset INGRESS_DEDUPE_WINDOW  # and restart: the default is 48h")
	}
}

// smallBody is less than the transcript of a long interview takes.
const smallBody = 1 << 20

func (d *doctor) external() bool { return d.Settings.NATSURL != "" }

const restart = "sudo systemctl restart versive-ingress"

func (d *doctor) checkIngress(ctx context.Context, r *Result) {
	admin, err := d.Settings.AdminURL()
	if err != nil {
		return // checkSettings reports it
	}
	response, text, err := Get(ctx, admin+"/readyz")
	ready := err == nil && response.StatusCode == http.StatusOK
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		r.add(Unknown, "no_ingress", "no ingress answers at "+admin, "webhooks are accepted only while it runs", "versive-ingress serve")
		d.checkAccess(r)
		return
	case err != nil:
		r.add(Unknown, "no_ingress", fmt.Sprintf("no ingress answers at %s: %v", admin, err), "an ingress that hangs accepts no webhooks", restart+"  # if it runs there")
		return
	case !IsIngress(response, text):
		r.add(Problem, "not_ingress", fmt.Sprintf("the program at %s is not an ingress, or this is not its admin listener", admin), "serve does not start while another program has the address",
			fmt.Sprintf("sudo ss -ltnp '( sport = :%s )'  # lists the program; then correct INGRESS_ADMIN_LISTEN", response.Request.URL.Port()))
		d.checkAccess(r)
		return
	}
	d.running = true
	d.checkAccess(r)
	r.when(!ready, Problem, "not_ready", "the ingress is not ready: "+strings.TrimSpace(text), "it answers webhooks 503, and the sender gives up after 27 h 35 m",
		"versive-ingress health  # once the findings below are resolved; if it still fails, see the ingress's log")
	d.metrics = d.readMetrics(ctx)
	d.checkReloads(r)

	webhooks := d.Settings.WebhookURL()
	response, _, err = Get(ctx, webhooks)
	starting := err == nil && response.StatusCode == http.StatusServiceUnavailable && !ready
	if err == nil && (response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Content-Type") != "application/problem+json") && !starting {
		err = fmt.Errorf("a GET is answered %s, not as by an ingress", response.Status)
	}
	r.when(err != nil, Problem, "no_webhooks", fmt.Sprintf("there is no webhook endpoint at %s: %v", webhooks, err),
		"the running ingress has other settings (INGRESS_LISTEN, INGRESS_PATH, INGRESS_TLS_CERT)", restart)
	if err == nil && response.TLS != nil {
		d.served = response.TLS.PeerCertificates[0]
	}
	addresses, _ := d.Addresses()
	public := slices.IndexFunc(addresses, func(a net.Addr) bool { ip := a.(*net.IPNet).IP; return ip.IsGlobalUnicast() && !ip.IsPrivate() })
	if host, _, _ := net.SplitHostPort(d.Settings.AdminListen); public >= 0 && (host == "" || host == "0.0.0.0" || host == "::") {
		r.add(Warning, "admin_public", fmt.Sprintf("the admin listener is on all interfaces, of which one has the address %v", addresses[public]),
			"it has no authentication; without a firewall, everybody can read the metrics, and the ids of interviews on the status page", "export INGRESS_ADMIN_LISTEN=127.0.0.1:9090  # and restart")
	}
	d.checkOutput(r, ready)
	r.Seen = "at " + webhooks
	for _, version := range d.metrics.labels("versive_ingress_build_info", "version") {
		r.Seen = fmt.Sprintf("version %s at %s", version, webhooks)
	}
}

// IsIngress reports whether an answer to /readyz or /livez, and its text, are those of an
// ingress.
func IsIngress(r *http.Response, text string) bool {
	return r.StatusCode == http.StatusOK && text == "ok\n" ||
		r.StatusCode == http.StatusServiceUnavailable && strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain")
}

// checkOutput checks what the ingress writes: its streams and its log.
func (d *doctor) checkOutput(r *Result, ready bool) {
	streams := d.metrics.labels("versive_ingress_stream_messages", "stream")
	r.when(len(streams) > 0 && !slices.Contains(streams, d.Settings.Stream), Problem, "stream_differs",
		fmt.Sprintf("the ingress has the streams %s, and these settings have %s", strings.Join(streams, ", "), d.Settings.Stream),
		"consumers of that stream do not receive the events", restart+"  # if these settings are right")
	dropped := d.metrics.sum("versive_ingress_log_lines_dropped_total")
	r.when(dropped > 0, Warning, "log_dropped", fmt.Sprintf("the ingress has dropped %.0f lines of its log since its start", dropped),
		"what reads its standard error is too slow, or has ended", restart+"  # after you have repaired the reader, such as journald")
	for _, s := range d.metrics.series("versive_ingress_stream_last_failure_timestamp_seconds") {
		r.when(s.Value > 0 && ready, // otherwise not_ready has the reason
			Unknown, "not_stored", fmt.Sprintf("the last message for stream %s could not be stored, %s ago", s.Metric["stream"], terminal.Age(d.since(s.Value))),
			"the webhook was answered 503; its next attempt shows whether that persists, and the sender gives up after 27 h 35 m",
			"journalctl --unit versive-ingress --grep unavailable  # the reason; without systemd, see the ingress's log")
	}
}

func (d *doctor) checkCertificate(_ context.Context, r *Result) {
	file, key := d.Settings.TLSCert, d.Settings.TLSKey
	if file == "" || key == "" {
		r.Seen = "none: a proxy is expected to serve HTTPS"
		return
	}
	pair, err := config.ReadKeyPair(file, key)
	if err != nil {
		r.fails("certificate_unusable", fmt.Errorf("INGRESS_TLS_CERT and INGRESS_TLS_KEY: %w", err), "serve does not start with them",
			fmt.Sprintf("openssl x509 -noout -pubkey -in %s; openssl pkey -pubout -in %s  # both must print the same key", file, key))
		return
	}
	leaf, now := pair.Leaf, d.Now()
	names := leaf.DNSNames
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	r.Seen = fmt.Sprintf("for %s, until %s", strings.Join(names, ", "), leaf.NotAfter.UTC().Format(time.DateOnly))

	text, _ := os.ReadFile(file) // ReadKeyPair has just read it
	intermediates := x509.NewCertPool()
	intermediates.AppendCertsFromPEM(text)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: d.Roots, Intermediates: intermediates, CurrentTime: now})
	const refused = "the sender does not connect"
	renew := fmt.Sprintf("openssl x509 -noout -dates -in %s  # renew it, and replace the file", file)
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		r.add(Problem, "certificate_expired", fmt.Sprintf("the certificate expired %s ago", terminal.Age(-left)), refused, renew)
	case now.Before(leaf.NotBefore):
		r.add(Problem, "certificate_not_yet_valid", "the certificate is not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339), refused, renew)
	case len(names) == 0:
		r.add(Problem, "certificate_nameless", "the certificate has no subject alternative name", refused,
			fmt.Sprintf("openssl x509 -noout -ext subjectAltName -in %s  # have it issued for the endpoint's name", file))
	case err != nil:
		r.add(Warning, "certificate_untrusted", fmt.Sprintf("this machine does not trust the certificate: %v", err), refused+", unless a proxy does",
			fmt.Sprintf("openssl verify -show_chain -untrusted %[1]s %[1]s  # the file needs the leaf first, then the intermediate ones, of a public authority", file))
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/5:
		r.add(Warning, "certificate_expires", fmt.Sprintf("the certificate expires in %s", terminal.Age(left)), "its renewal is overdue", renew)
	}
	r.when(d.served != nil && !d.served.Equal(leaf), Warning, "certificate_stale", "the ingress does not serve the certificate in INGRESS_TLS_CERT", "the sender may get an old one", restart)
}

const setSecret = "export INGRESS_SECRETS=whsec_…  # from the endpoint's page"

// checkSecrets checks the secrets of the settings, and what the ingress has verified
// with its own.
func (d *doctor) checkSecrets(_ context.Context, r *Result) {
	secrets, err := d.Settings.SigningSecrets()
	d.secrets, r.Seen = secrets, terminal.Plural(len(secrets), "secret", "secrets")
	if err != nil {
		remedy := setSecret
		if file := d.Settings.SecretsFile; file != "" {
			remedy = fmt.Sprintf("sudoedit %s  # it has one secret per line, from the endpoint's page", file)
		}
		r.Seen = "invalid"
		r.fails("secret_invalid", err, "serve does not start without valid secrets", remedy)
	}
	for i, secret := range secrets {
		first := slices.IndexFunc(secrets, func(s string) bool { return ingest.Fingerprint(s) == ingest.Fingerprint(secret) })
		r.when(first < i, Warning, "secret_duplicate", fmt.Sprintf("secrets %d and %d of %d are the same", first+1, i+1, len(secrets)),
			"one of them may have been meant to be another, such as the new one of a rotation", setSecret)
	}
	d.checkRunningSecrets(r)
	d.checkUse(r)
}

func (d *doctor) checkRunningSecrets(r *Result) {
	unique := func(list []string) []string { slices.Sort(list); return slices.Compact(list) }
	var running, set []string
	for _, s := range d.metrics.series("versive_ingress_secret_verified_total") {
		running = append(running, secretName(s))
	}
	for _, secret := range d.secrets {
		set = append(set, ingest.Fingerprint(secret))
	}
	running, set = unique(running), unique(set)
	d.sameSecrets = slices.Equal(running, set)
	r.when(!d.sameSecrets && len(running) > 0 && len(set) > 0, Problem, "secrets_differ",
		fmt.Sprintf("the ingress runs with the secrets %s, and these settings have %s", strings.Join(running, ", "), strings.Join(set, ", ")),
		"it rejects what is signed with the others, or gives it another organization", restart+"  # if these settings are right")
}

// secretName returns the name of a secret that a metric is about, as ingest.Fingerprint
// does.
func secretName(s *model.Sample) string {
	if organization := string(s.Metric["organization"]); organization != "" {
		return organization + ":" + string(s.Metric["fingerprint"])
	}
	return string(s.Metric["fingerprint"])
}

// rotation is how long the sender also signs with the old secret after a rotation.
const rotation = 24 * time.Hour

// checkUse reports secrets that have verified nothing for longer than a rotation lasts
// while another of the same organization has, and webhooks that were rejected since the
// last event was stored. A probe stores no event.
func (d *doctor) checkUse(r *Result) {
	// The secrets are in use since then; 0 if that is unknown.
	since := cmp.Or(d.metrics.where("source", "secrets").sum("versive_ingress_config_last_reload_success_timestamp_seconds"), d.metrics.sum("process_start_time_seconds"))
	secrets := d.metrics.series("versive_ingress_secret_last_verified_timestamp_seconds")
	for _, s := range secrets {
		inUse := slices.ContainsFunc(secrets, func(other *model.Sample) bool {
			return d.since(other.Value) < rotation && other.Metric["organization"] == s.Metric["organization"]
		})
		secret, verified := fmt.Sprintf("secret %s (%s)", s.Metric["position"], secretName(s)), "has verified nothing"
		if s.Value > 0 {
			verified = fmt.Sprintf("verified a webhook %s ago", terminal.Age(d.since(s.Value)))
		}
		r.Seen += fmt.Sprintf("; %s %s", secret, verified)
		last := cmp.Or(s.Value, since)
		r.when(last > 0 && d.since(last) >= rotation && inUse, Warning, "secret_unused", fmt.Sprintf("%s has verified nothing for %s, while another has", secret, terminal.Age(d.since(last))),
			"if it was replaced, the sender no longer signs with it, but anyone who has it can forge events",
			fmt.Sprintf("remove %s from INGRESS_SECRETS or INGRESS_SECRETS_FILE  # if it was replaced: docs/operations.md#rotate-secrets-certificates-and-credentials", secret))
	}
	stored := d.metrics.where("stream", d.Settings.Stream).sum("versive_ingress_stream_last_event_timestamp_seconds")
	for _, s := range d.metrics.series("versive_ingress_last_unauthorized_timestamp_seconds") {
		last := s.Value
		switch reason := string(s.Metric["reason"]); {
		case last <= stored: // what is rejected beside accepted webhooks is forged
		case reason == "signature":
			r.add(Warning, "secret_wrong", fmt.Sprintf("no event was stored since a webhook was rejected by its signature, %s ago", terminal.Age(d.since(last))),
				"if it is the sender's, the secret is that of another endpoint", setSecret)
		case strings.HasPrefix(reason, "timestamp_too_"):
			r.add(Warning, "timestamps_refused", fmt.Sprintf("no event was stored since a webhook was rejected as %s, %s ago", reason, terminal.Age(d.since(last))),
				fmt.Sprintf("if it is the sender's, this machine's clock is wrong by more than INGRESS_TOLERANCE (%s)", d.Settings.Tolerance), syncClock)
		}
	}
}

// localClient is for this machine's listeners, whose certificate is for another name.
// checkCertificate checks it.
var localClient = &http.Client{
	Timeout:       config.SenderTimeout,
	CheckRedirect: sender.Client.CheckRedirect,
	Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, ExpectContinueTimeout: time.Second},
}

// Get returns the response to a GET from a listener of this machine, and the first MiB of
// its body. It uses no proxy, follows no redirect, and does not verify the certificate.
func Get(ctx context.Context, address string) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, "", err
	}
	response, err := localClient.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response, string(text), err
}

// redacted returns a URL without its password.
func redacted(address string) string {
	u, _ := url.Parse(address)
	return u.Redacted() // "" if it cannot be parsed
}

// since returns how long ago a time is, in seconds of Unix time.
func (d *doctor) since(seconds model.SampleValue) time.Duration {
	return d.Now().Sub(time.Unix(int64(seconds), 0))
}

// metrics are the samples of the ingress.
type metrics model.Vector

// readMetrics returns the samples that can be read and parsed.
func (d *doctor) readMetrics(ctx context.Context) metrics {
	admin, _ := d.Settings.AdminURL()
	_, text, _ := Get(ctx, admin+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, _ := parser.TextToMetricFamilies(strings.NewReader(text))
	samples, _ := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, slices.Collect(maps.Values(families))...)
	return metrics(samples)
}

func (m metrics) series(name string) metrics { return m.where(model.MetricNameLabel, name) }

// where returns the samples that have a label with a value.
func (m metrics) where(label model.LabelName, value string) (samples metrics) {
	for _, s := range m {
		if string(s.Metric[label]) == value {
			samples = append(samples, s)
		}
	}
	return samples
}

// labels returns the values of a label of a metric, in ascending order.
func (m metrics) labels(name string, label model.LabelName) (values []string) {
	for _, s := range m.series(name) {
		values = append(values, string(s.Metric[label]))
	}
	slices.Sort(values)
	return slices.Compact(values)
}

func (m metrics) sum(name string) (sum model.SampleValue) {
	for _, s := range m.series(name) {
		sum += s.Value
	}
	return sum
}
