package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
)

// writeCertificate writes a certificate for 127.0.0.1 and its key, and returns
// their files and who trusts it.
func writeCertificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	return writeCertificateUntil(t, time.Now().Add(time.Hour))
}

func writeCertificateUntil(t *testing.T, expires time.Time) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     expires,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(cert)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, text := range map[string][]byte{
		certFile: cert,
		keyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, roots
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	plain := run(t, newSettings(t))
	s := newSettings(t)
	var roots *x509.CertPool
	s.TLSCert, s.TLSKey, roots = writeCertificate(t)
	secure := run(t, s)
	if !strings.HasPrefix(secure.url, "https://") {
		t.Errorf("with a certificate the URL is %s", secure.url)
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
			response, err := transport.RoundTrip(signed(c.sys.url, c.sys.settings.Secrets[0], sender.NewID(), sample))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK || response.ProtoMajor != c.want {
				t.Errorf("got %s over %s", response.Status, response.Proto)
			}
		})
	}

	if status, _ := get("http" + strings.TrimPrefix(secure.url, "https")); status != http.StatusBadRequest {
		t.Errorf("HTTP at the HTTPS listener: %d", status)
	}
}

// What is for the operator is not on the public listener, and what is for the
// sender is nowhere else.
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
	response, err := sender.Client.Do(signed(admin+sys.settings.Path, sys.settings.Secrets[0], sender.NewID(), sample))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("a webhook at the admin listener: %s", response.Status)
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
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_2", []byte("not JSON"))
	sys.post(t, "msg_3", []byte(`{"event_type":"interview.started"}`))
	forged := sender.Sender{URL: sys.url}
	if err := forged.SignWith(config.NewSecret()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a, err := forged.Post(t.Context(), "msg_4", time.Now(), sample); err != nil || a.Status != http.StatusUnauthorized {
			t.Errorf("a forged webhook: %v %v", a, err)
		}
	}
	get("http://" + sys.settings.Listen + "/nowhere")

	_, text := get("http://" + sys.settings.AdminListen + "/metrics")
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
	if !strings.Contains(text, `versive_ingress_build_info{commit="`) {
		t.Error("/metrics lacks the build")
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
