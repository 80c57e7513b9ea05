package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/subscribe"
)

const sample = `{"event_type":"interview.completed","study":{"id":"study_1","type":"VERSIVE"},"interview":{"id":"interview_1"}}`

func TestMain(m *testing.M) {
	for _, f := range config.Fields() {
		os.Unsetenv(f.Name)
	}
	os.Exit(embeddedtest.Run(m, sender.Client.CloseIdleConnections))
}

// newSettings returns the defaults, with a secret, a directory, and ports that the
// system chooses.
func newSettings(t testing.TB) config.Settings {
	t.Helper()
	s, err := config.Read()
	if err != nil {
		t.Fatal(err)
	}
	s.Secrets = []string{config.NewSecret()}
	s.Listen, s.AdminListen, s.NATSListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	s.DataDir = t.TempDir()
	return s
}

// A system is an ingress under test, with its log.
type system struct {
	*Server
	log *embeddedtest.Log
}

func run(t testing.TB, s config.Settings) *system {
	t.Helper()
	sys, err := tryRun(t, s)
	if err != nil {
		t.Fatal(err)
	}
	return sys
}

func tryRun(t testing.TB, s config.Settings) (*system, error) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatalf("settings: %v", err)
	}
	log := &embeddedtest.Log{}
	i, err := Start(t.Context(), Config{
		Settings: s, Version: "v9.8.7", Commit: "c0ffee",
		Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(i.Stop)
	return &system{i, log}, nil
}

// request returns a webhook that is signed with secret. It may be called by any
// goroutine.
func (s *system) request(secret, id, body string) *http.Request {
	vendor := sender.Sender{URL: s.WebhookURL()}
	if err := vendor.SignWith(secret); err != nil {
		panic(err)
	}
	request, err := vendor.Request(context.Background(), id, time.Now(), []byte(body))
	if err != nil {
		panic(err)
	}
	return request
}

// post posts a webhook and returns the status and the text of the answer; 0 and the
// error if nothing answers.
func (s *system) post(id, body string) (int, string) {
	return do(s.request(s.settings.Secrets[0], id, body))
}

func get(url string) (int, string) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return do(request)
}

func do(request *http.Request) (int, string) {
	response, err := sender.Client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

func (s *system) admin(path string) (int, string) {
	return get("http://" + s.settings.AdminListen + path)
}

func (s *system) readyz() int {
	status, _ := s.admin("/readyz")
	return status
}

// metric returns the lines of /metrics that begin with a name.
func (s *system) metric(name string) string {
	_, text := s.admin("/metrics")
	var lines strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+" ") || strings.HasPrefix(line, name+"{") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// requireStored checks that the event stream holds these webhooks, in this order.
func (s *system) requireStored(t testing.TB, want ...string) {
	t.Helper()
	settings := s.settings
	settings.NATSURL = s.BrokerURL()
	conn, err := broker.Open(t.Context(), settings, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var got []string
	for m, err := range conn.Source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func overwrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// writeCertificate writes the certificate of package httptest, for 127.0.0.1, and
// its key, and returns their files and who trusts it.
func writeCertificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	overwrite(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	overwrite(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return certFile, keyFile, roots
}
