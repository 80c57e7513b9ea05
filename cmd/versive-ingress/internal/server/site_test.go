package server

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

// newSite returns the settings of three ingresses whose embedded brokers are a cluster.
func newSite(t *testing.T) []config.Settings {
	t.Helper()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	site := make([]config.Settings, len(routes))
	for i := range site {
		s := newSettings(t)
		s.NATSListen, s.AdminListen, s.Replicas = "", embeddedtest.FreeAddress(t), 3
		s.NATSConfig = filepath.Join(t.TempDir(), "site.conf")
		overwrite(t, filepath.Join(filepath.Dir(s.NATSConfig), "listen.conf"), fmt.Sprintf("listen: %q\n", embeddedtest.FreeAddress(t)))
		overwrite(t, s.NATSConfig, fmt.Sprintf("server_name: node-%d\ninclude listen.conf\ncluster { name: site, listen: %q, routes: [\"nats://%s\"] }\n",
			i, routes[i], strings.Join(routes, `", "nats://`)))
		site[i] = s
	}
	return site
}

// At the first start of three ingresses, those that are there report what they wait
// for, for longer than a look-up lasts, and accept webhooks as soon as they can.
func TestFirstStartOfASite(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	systems := make([]*system, len(site))
	var starting sync.WaitGroup
	start := func(i int) {
		starting.Go(func() {
			var err error
			if systems[i], err = tryRun(t, site[i]); err != nil {
				t.Errorf("ingress %d: %v", i, err)
			}
		})
	}
	readyz := func(i int) (int, string) { return get("http://" + site[i].AdminListen + "/readyz") }
	reports := func(i int, want string) {
		t.Helper()
		embeddedtest.Await(t, want, func() bool {
			status, text := readyz(i)
			return status == http.StatusServiceUnavailable && strings.HasPrefix(text, "starting: the cluster has no leader: 2 of its 3 servers") && strings.Contains(text, want)
		})
	}
	start(0)
	reports(0, "this one is node-0, and it is connected to none")
	start(1)
	reports(0, "connected to node-1")
	reports(1, "connected to node-0")
	start(2)
	starting.Wait()
	if t.Failed() {
		return
	}
	for i, s := range systems {
		embeddedtest.Await(t, "ready", func() bool { return s.readyz() == http.StatusOK })
		if status, text := s.post("msg_1", sample); status != http.StatusOK {
			t.Errorf("a webhook to ingress %d: %d %s", i, status, text)
		}
		for _, want := range []string{"broker is not ready; waiting for it", "the cluster has no leader"} {
			if i < 2 && !strings.Contains(s.log.String(), want) {
				t.Errorf("want %q in the log of ingress %d:\n%s", want, i, s.log)
			}
		}
		if got := broker.URL(site[i]); got != s.BrokerURL() {
			t.Errorf("commands dial %s, and the broker is at %s", got, s.BrokerURL())
		}
	}

	// One that ends is missed, and not waited for; two are.
	systems[2].Stop()
	embeddedtest.Await(t, "two of three accept webhooks", func() bool {
		status, _ := systems[0].post("msg_2", sample)
		return status == http.StatusOK && systems[0].readyz() == http.StatusOK
	})
	systems[1].Stop()
	embeddedtest.Await(t, "one of three reports what it lacks", func() bool {
		status, text := readyz(0)
		return status == http.StatusServiceUnavailable && strings.Contains(text, "the cluster has no leader")
	})
}

// A change of INGRESS_NATS_CONFIG, or of a file that it includes, is reported until it is
// reverted.
func TestNATSConfigChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)[0]
	s.Replicas = 1
	text := "include listen.conf\nserver_name: single\n"
	overwrite(t, s.NATSConfig, text)
	included := filepath.Join(filepath.Dir(s.NATSConfig), "listen.conf")
	listen := fmt.Sprintf("listen: %q\n", embeddedtest.FreeAddress(t))
	overwrite(t, included, listen)
	sys := run(t, s)
	metric := func(want string) {
		t.Helper()
		embeddedtest.Await(t, want, func() bool { return strings.Contains(sys.metric(reloaded), `{source="broker"} `+want) })
	}
	metric("1")
	for _, change := range []struct{ file, text, original, want string }{
		{s.NATSConfig, text + "max_connections: 10\n", text, "restart the ingress to use it"},
		{included, listen + "max_subscriptions: 10\n", listen, "restart the ingress to use it"},
		{s.NATSConfig, "cluster {", text, "the next start would fail"},
	} {
		overwrite(t, change.file, change.text)
		metric("0")
		if !strings.Contains(sys.log.String(), change.want) {
			t.Errorf("want %q in the log:\n%s", change.want, sys.log)
		}
		overwrite(t, change.file, change.original)
		metric("1")
	}
}
