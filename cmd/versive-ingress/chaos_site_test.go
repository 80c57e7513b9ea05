package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

func init() { faults = append(faults, fault{"site", false, anyOfSite}) }

// newSite returns the settings of three ingresses that are a cluster, with the
// configuration that is shipped: users, and mutual TLS on the routes.
func newSite(t *testing.T) (site []config.Settings, u users) {
	t.Helper()
	u, keys := shippedUsers(t), t.TempDir()
	cert, key := filepath.Join(keys, "tls.crt"), filepath.Join(keys, "tls.key")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=routes", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	secret := config.NewSecret()
	for i, route := range routes {
		s := newSettings(t)
		text := fmt.Sprintf("server_name: node-%d\n", i) + strings.NewReplacer("0.0.0.0:4222", s.NATSListen, "0.0.0.0:6222", route,
			"ingress-1:6222", routes[0], "ingress-2:6222", routes[1], "ingress-3:6222", routes[2],
			"/etc/versive-ingress/routes/tls.key", key, "/etc/versive-ingress/routes/tls.crt", cert, "/etc/versive-ingress/routes/ca.crt", cert,
		).Replace(readText(t, filepath.Join("..", "..", "deploy", "nats", "site.conf")))
		s.NATSConfig = filepath.Join(filepath.Dir(u.config), fmt.Sprintf("site-%d.conf", i)) // includes users.conf
		if err := os.WriteFile(s.NATSConfig, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Secrets, s.NATSListen, s.NATSNKey, s.Replicas = []string{secret}, "", u.ingress, 3
		site = append(site, s)
	}
	return site, u
}

// site runs such ingresses. Webhooks are sent to each of them.
func (r *round) site() *cluster {
	t := r.TB.(*testing.T)
	site, u := newSite(t)
	c := &cluster{round: r, ingresses: site}
	var clients []string
	for i := range site {
		site[i].PublishTimeout = time.Second
		clients = append(clients, broker.URL(site[i]))
	}
	c.settings = site[0]
	c.launchNode = func(i int) *exec.Cmd { return r.launch(site[i]) }
	for i := range c.nodes {
		c.start(i)
	}
	for _, s := range site {
		awaitReady(r, s)
	}
	_, c.js = u.connect(t, strings.Join(clients, ","), u.operator)
	r.begin(&storm{think: 5 * time.Millisecond}, site...)
	return c
}

// killEach kills each of them in turn.
func (c *cluster) killEach() {
	for i := range c.nodes {
		kill(c.nodes[i])
		c.outage()
		c.start(i)
		c.awaitWhole()
	}
}

// wipe takes the disk of one of them.
func (c *cluster) wipe() {
	i := c.random.IntN(len(c.nodes))
	kill(c.nodes[i])
	if err := os.RemoveAll(c.ingresses[i].DataDir); err != nil {
		c.Fatal(err)
	}
	c.outage()
	c.start(i)
	c.awaitWhole()
}

// anyOfSite stages all of them in the long form, and otherwise what takes a leader and a
// disk; TestUpgradeInTurn restarts each.
func anyOfSite(r *round) {
	c := r.site()
	stages := []func(){c.killLeader, c.wipe}
	if r.long {
		stages = append(stages, c.killEach, c.freezeLeader, c.restartOneByOne)
	}
	r.random.Shuffle(len(stages), func(i, j int) { stages[i], stages[j] = stages[j], stages[i] })
	for _, stage := range stages {
		c.storm.awaitAccepted(r, 1+r.random.IntN(60))
		stage()
		r.staged++
	}
	c.end()
}
