package embedded_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// Start warns about leaf nodes without a JetStream domain, because a stream across
// the leaf node connection could then acknowledge messages.
func TestLeafNodesWithoutDomain(t *testing.T) {
	t.Parallel()
	for domain, warns := range map[string]bool{"": true, "domain: edge": false} {
		file := filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { %s }\nleafnodes { remotes: [{ url: \"nats://127.0.0.1:1\" }] }\n", domain)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		embeddedtest.StartBroker(t, embedded.Config{ConfigFile: file, Logger: slog.New(slog.NewTextHandler(&log, nil))}).Stop()
		if got := strings.Contains(log.String(), "without a JetStream domain"); got != warns {
			t.Errorf("%q: warned %t, want %t:\n%s", text, got, warns, &log)
		}
	}
}
