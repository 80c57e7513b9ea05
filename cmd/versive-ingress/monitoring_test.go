package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

// The metrics that the dashboard and the alert rules query exist, with these labels.
// .ci/monitoring checks with a real Prometheus that the queries are valid and return
// data.
func TestMonitoringAsksForWhatThereIs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "deploy")
	dashboard, err := os.ReadFile(filepath.Join(dir, "grafana", "versive-ingress.json"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := json.Unmarshal(dashboard, &parsed); err != nil {
		t.Fatal(err)
	}
	queries := members(parsed, "expr")
	if len(queries) < 30 {
		t.Errorf("the dashboard has %d queries; are they still called expr?", len(queries))
	}
	rules, err := os.ReadFile(filepath.Join(dir, "prometheus", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	exposed := exposedNames(t)
	asked := regexp.MustCompile(`\b(versive_ingress|process|go)_[a-z0-9_]+`)
	for source, text := range map[string]string{"the dashboard": strings.Join(queries, "\n"), "the alert rules": string(rules)} {
		for _, name := range asked.FindAllString(text, -1) {
			if !exposed[name] {
				t.Errorf("%s ask for %s, which is not a metric of the ingress", source, name)
			}
		}
	}
}

// Every alert has a word on what to do, and no word is left over.
func TestAlertsAreExplained(t *testing.T) {
	names := func(file, pattern string) []string {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			found = append(found, match[1])
		}
		return found
	}
	alerts := names("deploy/prometheus/alerts.yml", `- alert: (\w+)`)
	explained := names("docs/operations.md", `(?m)^### (VersiveIngress\w+)$`)
	if diff := cmp.Diff(alerts, explained); diff != "" || len(alerts) == 0 {
		t.Errorf("(-alerts.yml +operations.md)\n%s", diff)
	}
}

// members returns the texts of all members of a name, at any depth.
func members(v any, name string) []string {
	var found []string
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && key == name {
				found = append(found, text)
			}
			found = append(found, members(value, name)...)
		}
	case []any:
		for _, value := range v {
			found = append(found, members(value, name)...)
		}
	}
	return found
}

// exposedNames returns the names of all series that an ingress exposes when it
// has stored something.
func exposedNames(t *testing.T) map[string]bool {
	t.Helper()
	s := newSettings(t)
	var roots *x509.CertPool
	s.TLSCert, s.TLSKey, roots = writeCertificate(t)
	s.ForwardURL = "nats://127.0.0.1:1" // nothing listens there
	sys := run(t, s)
	createConsumer(t, sys.BrokerURL())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(signed(sys.url, s.Secrets[0], sender.NewID(), sample))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()

	var text string
	embeddedtest.Await(t, "the event, the backlogs and the consumer are counted", func() bool { // the streams are looked at every second
		_, text = get("http://" + s.AdminListen + "/metrics")
		return strings.Contains(text, "versive_ingress_stream_oldest_event_timestamp_seconds") &&
			strings.Contains(text, "versive_ingress_quarantine_events ") && strings.Contains(text, "versive_ingress_dead_letter_events ") &&
			strings.Contains(text, "versive_ingress_consumer_pending_events")
	})
	names := make(map[string]bool)
	for line := range strings.Lines(text) {
		names[line[:strings.IndexAny(line, "{ ")]] = true // or "#"
	}
	return names
}
