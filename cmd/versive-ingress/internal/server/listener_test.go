package server

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

func TestProtocols(t *testing.T) {
	t.Parallel()
	plain := run(t, newSettings(t))
	s := newSettings(t)
	var roots *x509.CertPool
	s.TLSCert, s.TLSKey, roots = writeCertificate(t)
	secure := run(t, s)
	if !strings.HasPrefix(secure.WebhookURL(), "https://") {
		t.Errorf("with a certificate the URL is %s", secure.WebhookURL())
	}

	for name, c := range map[string]struct {
		sys   *system
		allow func(*http.Protocols)
		want  int
	}{
		"HTTP":    {plain, func(p *http.Protocols) { p.SetHTTP1(true) }, 1},
		"h2c":     {plain, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }, 2},
		"HTTPS":   {secure, func(p *http.Protocols) { p.SetHTTP1(true) }, 1},
		"HTTP/2":  {secure, func(p *http.Protocols) { p.SetHTTP2(true) }, 2},
		"HTTPS/2": {secure, func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) }, 2}, // negotiated
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: new(http.Protocols)}
			c.allow(transport.Protocols)
			defer transport.CloseIdleConnections()
			response, err := transport.RoundTrip(c.sys.request(c.sys.settings.Secrets[0], "msg_1", sample))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK || response.ProtoMajor != c.want {
				t.Errorf("got %s over %s", response.Status, response.Proto)
			}
		})
	}

	if status, _ := get("http" + strings.TrimPrefix(secure.WebhookURL(), "https")); status != http.StatusBadRequest {
		t.Errorf("HTTP at the HTTPS listener: %d", status)
	}
}

// TestIdleTimeout compares it with the longest of usual load balancers, Google's.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	if got := newHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler)).IdleTimeout; got <= 10*time.Minute {
		t.Errorf("idle connections are closed after %v", got)
	}
}

// The public listener does not serve what the admin listener serves, nor the other way
// round.
func TestListenersAreApart(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	public, admin := "http://"+sys.settings.Listen, "http://"+sys.settings.AdminListen
	for url, want := range map[string]int{
		public + "/metrics":                          404,
		public + "/livez":                            404,
		public + "/readyz":                           404,
		public + "/debug/pprof/":                     404,
		public + "/":                                 404,
		public + sys.settings.Path:                   405,
		public + sys.settings.Path + "/":             404,
		admin + "/metrics":                           200,
		admin + "/livez":                             200,
		admin + "/readyz":                            200,
		admin + "/debug/pprof/":                      404,
		admin + sys.settings.Path:                    404,
		public + "/webhooks/../webhooks/versive/../": 404,
	} {
		if status, _ := get(url); status != want {
			t.Errorf("GET %s: %d, want %d", url, status, want)
		}
	}
	request := sys.request(sys.settings.Secrets[0], "msg_1", sample)
	request.URL.Host = sys.settings.AdminListen
	if status, _ := do(request); status != http.StatusNotFound {
		t.Errorf("a webhook at the admin listener: %d", status)
	}
}

func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	conn, err := net.Dial("tcp", sys.settings.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { // fails when the other end has had enough
		_, _ = io.WriteString(conn, "POST /webhooks/versive HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 2*maxHeader)+"\r\n\r\n")
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %s", response.Status)
	}
}

// Every answer is counted once, by its outcome, under names that Prometheus
// likes.
func TestMetrics(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	sys.post("msg_1", sample)
	sys.post("msg_1", sample)
	sys.post("msg_1", sample)
	sys.post("msg_2", "not JSON")
	sys.post("msg_3", `{"event_type":"interview.started"}`)
	for range 2 {
		if status, _ := do(sys.request(config.NewSecret(), "msg_4", sample)); status != http.StatusUnauthorized {
			t.Errorf("a forged webhook is answered %d", status)
		}
	}
	get("http://" + sys.settings.Listen + "/nowhere")

	_, text := sys.admin("/metrics")
	for _, line := range []string{
		`versive_ingress_requests_total{outcome="stored",reason=""} 1`,
		`versive_ingress_requests_total{outcome="duplicate",reason=""} 2`,
		`versive_ingress_requests_total{outcome="quarantined",reason="malformed"} 1`,
		`versive_ingress_requests_total{outcome="quarantined",reason="unsupported_type"} 1`,
		`versive_ingress_requests_total{outcome="unauthorized",reason="signature"} 2`,
		`versive_ingress_requests_total{outcome="not_found",reason="path"} 1`,
		`versive_ingress_request_duration_seconds_count{outcome="duplicate"} 2`,
		`versive_ingress_inflight_bytes 0`,
		`versive_ingress_ready 1`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	if build := sys.metric("versive_ingress_build_info"); !strings.Contains(build, `commit="c0ffee"`) || !strings.Contains(build, `version="v9.8.7"`) {
		t.Errorf("the build is %q", build)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "versive_ingress_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
