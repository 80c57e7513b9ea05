package embedded_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// clusterConfig returns a configuration file of a server of a cluster.
func clusterConfig(t *testing.T, name, route string, routes ...string) string {
	t.Helper()
	if name != "" {
		name = "server_name: " + name
	}
	return writeConfig(t, fmt.Sprintf("%s\nlisten: \"127.0.0.1:-1\"\ncluster { name: c, listen: %q, routes: [\"nats://%s\"] }",
		name, route, strings.Join(routes, `", "nats://`)))
}

// A server of a cluster without server_name has the host name, and keeps the name that
// it has joined with: under another one, the cluster would take it for a new server.
func TestServerName(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir, route := t.TempDir(), embeddedtest.FreeAddress(t)
	name := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "server_name"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	unnamed := embedded.Config{Dir: dir, ConfigFile: clusterConfig(t, "", route, route, "127.0.0.1:1")}
	embeddedtest.StartBroker(t, unnamed).Stop()
	if name() != host {
		t.Errorf("the server has joined as %q, want %q", name(), host)
	}
	renamed := embedded.Config{Dir: dir, ConfigFile: clusterConfig(t, "other", route, route, "127.0.0.1:1")}
	before := snapshot(t, dir)
	startFails(t, renamed, "sets server_name: other", "set server_name: "+host, "empty data directory")
	if after := snapshot(t, dir); after != before {
		t.Errorf("the directory has changed:\n%s\nwant\n%s", after, before)
	}
	renamed.ConfigFile = clusterConfig(t, host, route, route, "127.0.0.1:1") // the first remedy
	embeddedtest.StartBroker(t, renamed).Stop()

	if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil { // the second one
		t.Fatal(err)
	}
	renamed.ConfigFile = clusterConfig(t, "other", route, route, "127.0.0.1:1")
	embeddedtest.StartBroker(t, renamed).Stop()
	embeddedtest.StartBroker(t, unnamed).Stop() // in a container that has another host name now
	if name() != "other" {
		t.Errorf("the server has joined as %q, want other", name())
	}
}

// Two servers of the same name cannot be of one cluster. The log has the remedy.
func TestSameServerName(t *testing.T) {
	t.Parallel()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	log := &embeddedtest.Log{}
	var dirs []string
	start := func(name string, i int) *embedded.Broker {
		dirs = append(dirs, t.TempDir())
		return embeddedtest.StartBroker(t, embedded.Config{Dir: dirs[len(dirs)-1], ConfigFile: clusterConfig(t, name, routes[i], routes...), Logger: slog.New(slog.NewTextHandler(log, nil))})
	}
	first, second := start("", 0), start("", 1)
	embeddedtest.Await(t, "the remedy is logged", func() bool { return strings.Contains(log.String(), "need different names; set server_name") })
	second.Stop()
	second = start("other", 1)
	embeddedtest.Await(t, "a leader", func() bool { return first.Diagnose() == nil && second.Diagnose() == nil })
}

// Until there is a leader, the broker reports which servers it lacks.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	start := func(name string, i int) *embedded.Broker {
		return embeddedtest.StartBroker(t, embedded.Config{ConfigFile: clusterConfig(t, name, routes[i], routes...)})
	}
	a := start("a", 0)
	if err := a.Diagnose(); err == nil || !strings.Contains(err.Error(), "2 of its 3 servers must run and be connected, or all of them at the first start") ||
		!strings.HasSuffix(err.Error(), "this one is a, and it is connected to none") {
		t.Errorf("one of three: %v", err)
	}
	b := start("b", 1)
	embeddedtest.Await(t, "a connection", func() bool { return strings.HasSuffix(fmt.Sprint(a.Diagnose()), "connected to b") })
	c := start("c", 2)
	embeddedtest.Await(t, "a leader", func() bool { return a.Diagnose() == nil && b.Diagnose() == nil && c.Diagnose() == nil })
	b.Stop()
	embeddedtest.Await(t, "a leader without b", func() bool { return a.Diagnose() == nil && c.Diagnose() == nil })
	c.Stop()
	embeddedtest.Await(t, "no leader", func() bool { return a.Diagnose() != nil })
	if err := embeddedtest.StartBroker(t, embedded.Config{}).Diagnose(); err != nil {
		t.Errorf("a single server: %v", err)
	}
}

// Commands find the listener that a configuration file sets.
func TestListener(t *testing.T) {
	for text, want := range map[string]string{
		`listen: "127.0.0.1:4333"`:                 "127.0.0.1:4333",
		`port: 4333`:                               "0.0.0.0:4333",
		`host: "localhost"`:                        "localhost:4222",
		"accounts { A { jetstream: enabled } }":    "",
		`listen: "127.0.0.1:-1"`:                   "",
		`users: $NO_SUCH_VARIABLE`:                 "",
		`listen: "[::1]:4333", http: "[::1]:8222"`: "[::1]:4333",
	} {
		got := embedded.Listener(writeConfig(t, text))
		if host, port, _ := net.SplitHostPort(got); host == "" && port != "" {
			got = net.JoinHostPort("0.0.0.0", port)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if got := embedded.Listener(""); got != "" {
		t.Errorf("no file: %q", got)
	}
}
