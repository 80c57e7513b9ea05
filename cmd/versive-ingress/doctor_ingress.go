package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

const restart = "sudo systemctl restart versive-ingress"

// localClient posts to the listener of this machine, whose certificate has the
// name that the sender knows. It is checked by itself.
func localClient() *http.Client {
	return &http.Client{
		Timeout:       config.SenderTimeout,
		CheckRedirect: sender.Client.CheckRedirect,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
}

func (d *doctor) checkIngress(ctx context.Context) (seen string, findings []Finding) {
	admin, err := d.settings.AdminURL()
	if err != nil {
		return "", nil // a finding of the settings
	}
	status, text, err := getText(ctx, admin+"/readyz")
	switch {
	case err != nil:
		return "", []Finding{{"no_ingress", Unknown, fmt.Sprintf("no ingress answers at %s", admin), "webhooks are answered only while it runs", "versive-ingress serve"}}
	case status != http.StatusOK:
		findings = append(findings, Finding{
			"not_ready", Problem, "the ingress is not ready: " + strings.TrimSpace(text), "it answers webhooks by 503, and the sender gives up after 27 h 35 m",
			"versive-ingress health  # again, when what follows here is mended; if it stays, see the ingress's log",
		})
	}
	d.running = true
	if status, text, err = getText(ctx, admin+"/metrics"); err == nil && status == http.StatusOK {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		d.metrics, _ = parser.TextToMetricFamilies(strings.NewReader(text)) // those that can be read
	}
	for _, m := range d.metrics["versive_ingress_config_last_reload_successful"].GetMetric() {
		if source := label(m, "source"); m.GetGauge().GetValue() == 0 {
			findings = append(findings, Finding{
				"reload_failed", Warning, "the ingress could not read again: " + source, "it goes on with what it had, and does not start with what is there now",
				"journalctl -u versive-ingress | grep -i reload | tail -n 1",
			})
		}
	}

	url := d.settings.WebhookURL()
	status, _, err = getText(ctx, url)
	if err == nil && status != http.StatusMethodNotAllowed {
		err = fmt.Errorf("a GET is answered %d, not 405", status)
	}
	if err != nil {
		findings = append(findings, Finding{
			"no_webhooks", Problem, fmt.Sprintf("there is no webhook endpoint at %s: %v", url, err),
			"the ingress that runs here does so with other settings than these (INGRESS_LISTEN, INGRESS_PATH, INGRESS_TLS_CERT)", restart,
		})
	}
	seen = "at " + url
	for _, m := range d.metrics["versive_ingress_build_info"].GetMetric() {
		seen = "version " + label(m, "version") + " " + seen
	}
	return seen, findings
}

// getText returns the answer to a GET, of which it reads the first MiB.
func getText(ctx context.Context, url string) (status int, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := localClient().Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(body), err
}

// value returns the sum of a metric of the ingress over all that have the given
// labels, names and values in turn.
func (d *doctor) value(name string, labels ...string) (sum float64) {
series:
	for _, m := range d.metrics[name].GetMetric() {
		for i := 0; i < len(labels); i += 2 {
			if label(m, labels[i]) != labels[i+1] {
				continue series
			}
		}
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them
	}
	return sum
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (d *doctor) checkCertificate(ctx context.Context) (seen string, findings []Finding) {
	s := d.settings
	if s.TLSCert == "" || s.TLSKey == "" {
		return "none: HTTPS is for a proxy to serve", nil
	}
	pair, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return "", []Finding{{
			"certificate_unusable", Problem, fmt.Sprintf("INGRESS_TLS_CERT and INGRESS_TLS_KEY: %v", err), "serve does not start with them",
			fmt.Sprintf("openssl x509 -noout -pubkey -in %s; openssl pkey -pubout -in %s  # want the same key twice", s.TLSCert, s.TLSKey),
		}}
	}
	leaf, now := pair.Leaf, d.now()
	names := strings.Join(append(leaf.DNSNames, addresses(leaf.IPAddresses)...), ", ")
	seen = fmt.Sprintf("of %s, until %s", cmp.Or(names, "nobody"), leaf.NotAfter.UTC().Format(time.DateOnly))
	renew := fmt.Sprintf("openssl x509 -noout -dates -in %s  # renew it, and replace the file", s.TLSCert)
	left := leaf.NotAfter.Sub(now)
	add := func(id string, level Level, found, why, remedy string) {
		findings = append(findings, Finding{id, level, found, why, remedy})
	}
	switch {
	case left <= 0:
		add("certificate_expired", Problem, fmt.Sprintf("the certificate has expired, %s ago", terminal.Age(-left)), "no sender connects", renew)
	case now.Before(leaf.NotBefore):
		add("certificate_not_yet_valid", Problem, "the certificate is not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339), "no sender connects", renew)
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/5:
		add("certificate_expires", Warning, fmt.Sprintf("the certificate expires in %s", terminal.Age(left)), "its renewal is late, and then no sender connects", renew)
	}
	if names == "" {
		add("certificate_nameless", Problem, "the certificate has no subject alternative name", "no sender connects, whatever its common name is",
			fmt.Sprintf("openssl x509 -noout -ext subjectAltName -in %s  # have it issued with the endpoint's name", s.TLSCert))
	}
	if err := verifyChain(pair, d.roots, now); err != nil {
		add("certificate_untrusted", Warning, fmt.Sprintf("the certificate has no chain to an authority that this machine trusts: %v", err),
			"the sender does not connect, unless a proxy is between",
			fmt.Sprintf("cat certificate.pem intermediate.pem > %s  # the leaf first, then the intermediate ones", s.TLSCert))
	}
	if d.running {
		if err := d.checkServed(ctx, leaf); err != nil {
			add("certificate_stale", Warning, err.Error(), "the sender gets an old one", restart)
		}
	}
	return seen, findings
}

func addresses(ips []net.IP) []string {
	var list []string
	for _, ip := range ips {
		list = append(list, ip.String())
	}
	return list
}

// verifyChain checks the chain alone: names and time have findings of their
// own.
func verifyChain(pair tls.Certificate, roots *x509.CertPool, now time.Time) error {
	leaf, intermediates := pair.Leaf, x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(c)
		}
	}
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		now = leaf.NotBefore
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now})
	return err
}

// checkServed checks that the listener serves the certificate of the file.
func (d *doctor) checkServed(ctx context.Context, leaf *x509.Certificate) error {
	host := strings.TrimPrefix(strings.TrimSuffix(d.settings.WebhookURL(), d.settings.Path), "https://")
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil // a finding of the ingress
	}
	defer conn.Close()
	served := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(served) == 0 || !served[0].Equal(leaf) {
		return errors.New("the ingress serves another certificate than that of the file")
	}
	return nil
}
