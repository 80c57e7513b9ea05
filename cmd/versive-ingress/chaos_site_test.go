package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"versive-ingress/publish/embedded/embeddedtest"
)

func init() { faults = append(faults, fault{"site", false, anyOfSite}) }

// site runs three ingresses that are a cluster, with the configuration that is shipped:
// users, and mutual TLS on the routes. Webhooks are sent to each of them.
func (r *round) site() *cluster {
	t := r.TB.(*testing.T)
	u, keys := shippedUsers(t), r.TempDir()
	cert, key := filepath.Join(keys, "tls.crt"), filepath.Join(keys, "tls.key")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=routes", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key).CombinedOutput(); err != nil {
		r.Fatalf("%v: %s", err, out)
	}
	routes := []string{embeddedtest.FreeAddress(r), embeddedtest.FreeAddress(r), embeddedtest.FreeAddress(r)}
	c := &cluster{round: r}
	var clients []string
	for i, route := range routes {
		client := embeddedtest.FreeAddress(r)
		text := fmt.Sprintf("server_name: node-%d\n", i) + strings.NewReplacer("0.0.0.0:4222", client, "0.0.0.0:6222", route,
			"ingress-1:6222", routes[0], "ingress-2:6222", routes[1], "ingress-3:6222", routes[2],
			"/etc/versive-ingress/routes/tls.key", key, "/etc/versive-ingress/routes/tls.crt", cert, "/etc/versive-ingress/routes/ca.crt", cert,
		).Replace(readText(t, filepath.Join("..", "..", "deploy", "nats", "site.conf")))
		s := r.settings()
		s.NATSConfig = filepath.Join(filepath.Dir(u.config), fmt.Sprintf("site-%d.conf", i)) // includes users.conf
		if err := os.WriteFile(s.NATSConfig, []byte(text), 0o600); err != nil {
			r.Fatal(err)
		}
		s.NATSListen, s.NATSNKey, s.Replicas = "", u.ingress, 3
		if i > 0 {
			s.Secrets = c.ingresses[0].Secrets
		}
		c.ingresses = append(c.ingresses, s)
		clients = append(clients, "nats://"+client)
	}
	c.settings = c.ingresses[0]
	c.launchNode = func(i int) *exec.Cmd { return r.launch(c.ingresses[i]) }
	for i := range c.nodes {
		c.start(i)
	}
	for _, s := range c.ingresses {
		awaitReady(r, s)
	}
	_, c.js = u.connect(t, strings.Join(clients, ","), u.operator)
	r.begin(&storm{think: 5 * time.Millisecond}, c.ingresses...)
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

// anyOfSite stages all of them in the long form, and otherwise what takes a leader, a disk
// and every ingress once.
func anyOfSite(r *round) {
	c := r.site()
	stages := []func(){c.killLeader, c.wipe, c.restartOneByOne}
	if r.long {
		stages = append(stages, c.killEach, c.freezeLeader)
	}
	r.random.Shuffle(len(stages), func(i, j int) { stages[i], stages[j] = stages[j], stages[i] })
	for _, stage := range stages {
		c.storm.awaitAccepted(r, 1+r.random.IntN(60))
		stage()
		r.staged++
	}
	c.end()
}
