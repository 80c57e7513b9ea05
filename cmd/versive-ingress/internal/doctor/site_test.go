package doctor_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded/embeddedtest"
)

// Three ingresses are a cluster: doctor reports that INGRESS_REPLICAS was forgotten, that
// the configuration has changed, and what the site can still bear.
func TestRunOnSite(t *testing.T) {
	t.Parallel()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	site, ingresses := make([]config.Settings, 3), make([]*server.Server, 3)
	for i := range site {
		site[i] = newSettings(t)
		site[i].NATSConfig = filepath.Join(t.TempDir(), "site.conf")
		write(t, site[i].NATSConfig, fmt.Sprintf("server_name: node-%d\nlisten: %q\ncluster { name: site, listen: %q, routes: [\"nats://%s\"] }\n",
			i, site[i].NATSListen, routes[i], strings.Join(routes, `", "nats://`)))
		site[i].NATSListen = ""
	}
	each := func(do func(i int)) {
		var all sync.WaitGroup
		for i := range site {
			all.Go(func() { do(i) })
		}
		all.Wait()
	}
	ready := func(i int) {
		t.Helper()
		embeddedtest.Await(t, "ready", func() bool { status, _ := readyz(t, site[i]); return status == http.StatusOK })
	}
	start := func(i int) { ingresses[i] = run(t, site[i]) }
	each(start)
	each(ready)
	requireFindings(t, newDoctor(site[0]), "warning one_replica: export INGRESS_REPLICAS=3", "warning one_replica: export INGRESS_REPLICAS=3")

	each(func(i int) { ingresses[i].Stop() })
	for i := range site { // the remedy
		site[i].Replicas = 3
	}
	each(start)
	each(ready)
	embeddedtest.Await(t, "nothing is found", func() bool { return len(findings(t, newDoctor(site[0]))) == 0 })

	text, err := os.ReadFile(site[0].NATSConfig)
	if err != nil {
		t.Fatal(err)
	}
	write(t, site[0].NATSConfig, string(text)+"max_connections: 100\n")
	embeddedtest.Await(t, "the change is noticed", func() bool { return len(findings(t, newDoctor(site[0]))) > 0 })
	requireFindings(t, newDoctor(site[0]), "warning config_changed: systemctl restart")
	ingresses[0].Stop()
	start(0)
	ready(0)

	ingresses[2].Stop()
	ready(0)
	var report doctor.Report
	embeddedtest.Await(t, "both streams lack a replica", func() bool {
		report = doctor.Run(t.Context(), *newDoctor(site[0]))
		n := 0
		for _, c := range report.Checks {
			for _, f := range c.Findings {
				if f.ID == "replica_behind" && strings.Contains(f.Found, "on node-2") && strings.Contains(f.Remedy, "systemctl start versive-ingress  # on node-2") {
					n++
					if want := "new events are on 2 of 3 disks; if one more server fails, webhooks are answered 503"; !strings.HasPrefix(f.Why, want) {
						t.Errorf("got %q, want %q", f.Why, want)
					}
				}
			}
		}
		return n == 2
	})
	if report.Status != doctor.Warning {
		t.Errorf("with two of three: %v", report)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
