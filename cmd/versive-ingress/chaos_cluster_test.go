package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A cluster is three NATS servers in processes of their own, and an ingress on
// them. Every way from one server to another leads through a proxy.
type cluster struct {
	*round
	settings config.Settings
	configs  [3]embedded.Config
	nodes    [3]*exec.Cmd
	routes   [3][3]*proxy // from, to
	js       jetstream.JetStream

	// Set if the ingresses themselves are the cluster.
	ingresses  []config.Settings
	launchNode func(i int) *exec.Cmd
}

func (r *round) cluster() *cluster {
	c := &cluster{round: r}
	var clients, routes [3]string
	for i := range c.nodes {
		clients[i], routes[i] = embeddedtest.FreeAddress(r), embeddedtest.FreeAddress(r)
	}
	for i := range c.nodes {
		var peers []string
		for j := range c.nodes {
			if j != i {
				c.routes[i][j] = newProxy(r, routes[j], nil)
				peers = append(peers, fmt.Sprintf("%q", "nats://"+c.routes[i][j].address()))
			}
		}
		// Servers advertise each other's addresses, and would go around the proxies:
		// nothing listens at the addresses that these advertise. And the cluster has
		// a name that no other has, whoever may get the port of a server that is away.
		config := filepath.Join(r.TempDir(), "nats.conf")
		text := fmt.Sprintf(`
			server_name: node-%d
			cluster {
				name: %q
				listen: %q
				advertise: "127.0.0.1:1"
				no_advertise: true
				routes: [%s]
			}`, i, routes[0], routes[i], strings.Join(peers, ", "))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			r.Fatal(err)
		}
		c.configs[i] = embedded.Config{Dir: r.TempDir(), Listen: clients[i], ConfigFile: config}
	}
	c.launchNode = func(i int) *exec.Cmd { return launchBroker(c, c.configs[i]) }
	for i := range c.nodes {
		c.start(i)
	}
	c.settings = withBroker(r.settings(), strings.Join(clients[:], ",nats://"))
	c.settings.Replicas = 3
	if r.random.IntN(2) == 0 {
		c.settings.PublishMode = string(publish.ModeBatch)
	}
	r.launch(c.settings)
	c.js = embeddedtest.Connect(r, c.settings.NATSURL)
	awaitReady(r, c.settings)
	r.begin(&storm{senders: 48, think: 5 * time.Millisecond}, c.settings)
	return c
}

func (c *cluster) start(i int) { c.nodes[i] = c.launchNode(i) }

// info asks the cluster about the stream.
func (c *cluster) info() *jetstream.ClusterInfo { return c.infoOf(c.js) }

func (c *cluster) infoOf(js jetstream.JetStream) *jetstream.ClusterInfo {
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, c.settings.Stream)
	if err != nil {
		return &jetstream.ClusterInfo{}
	}
	return stream.CachedInfo().Cluster
}

// leader returns the node that leads the stream.
func (c *cluster) leader() (node int) {
	c.Helper()
	embeddedtest.Await(c, "a leader", func() bool {
		_, err := fmt.Sscanf(c.info().Leader, "node-%d", &node)
		return err == nil
	})
	return node
}

// awaitWhole waits until all nodes have all events.
func (c *cluster) awaitWhole() {
	c.Helper()
	embeddedtest.Await(c, "a whole cluster", func() bool {
		info := c.info()
		return len(info.Replicas) == 2 && !slices.ContainsFunc(info.Replicas, func(p *jetstream.PeerInfo) bool { return p.Offline || !p.Current })
	})
	awaitReady(c, c.settings)
	for _, s := range c.ingresses {
		awaitReady(c, s)
	}
}

func (c *cluster) end() {
	c.Helper()
	c.awaitWhole()
	c.settle()
	c.check(c.js, c.settings.Stream)
}

// outage waits for a time in which the others may or may not have elected
// another leader, and may or may not have noticed at all.
func (c *cluster) outage() {
	if c.long {
		c.pause(0, 20*time.Second)
	} else {
		c.pause(0, 3*time.Second)
	}
}

// Each of these leaves a whole cluster.

func (c *cluster) killLeader() {
	i := c.leader()
	kill(c.nodes[i])
	c.outage()
	c.start(i)
	c.awaitWhole()
}

func (c *cluster) freezeLeader() {
	thaw := freeze(c, c.nodes[c.leader()])
	if c.ingresses == nil {
		c.outage()
	} else { // it is to answer what it has received before the sender gives up
		c.pause(0, config.SenderTimeout-5*time.Second)
	}
	thaw()
	c.awaitWhole()
}

func (c *cluster) partitionLeader() {
	i := c.leader()
	for j := range c.nodes {
		if j != i {
			c.routes[i][j].sever()
			c.routes[j][i].sever()
		}
	}
	c.outage()
	if c.long { // the others go on, and the ingress finds them
		other := embeddedtest.Connect(c, "nats://"+c.configs[(i+1)%len(c.configs)].Listen)
		embeddedtest.Await(c, "another leader", func() bool {
			leader := c.infoOf(other).Leader
			return leader != "" && leader != fmt.Sprintf("node-%d", i)
		})
		awaitReady(c, c.settings)
		c.storm.awaitAccepted(c, 10)
	}
	for j := range c.nodes {
		if j != i {
			c.routes[i][j].restore()
			c.routes[j][i].restore()
		}
	}
	c.awaitWhole()
}

func (c *cluster) restartOneByOne() {
	for i := range c.nodes {
		terminate(c, c.nodes[i])
		c.start(i)
		c.awaitWhole()
	}
}

func killLeader(r *round) {
	c := r.cluster()
	r.times(2, c.killLeader)
	c.end()
}

func freezeLeader(r *round) {
	c := r.cluster()
	r.times(2, c.freezeLeader)
	c.end()
}

func partitionLeader(r *round) {
	c := r.cluster()
	r.times(2, c.partitionLeader)
	c.end()
}

func rollingRestart(r *round) {
	c := r.cluster()
	r.times(2, c.restartOneByOne)
	c.end()
}

// anyOfCluster stages one of each on the same cluster, in an order that the
// seed decides.
func anyOfCluster(r *round) {
	c := r.cluster()
	stages := []func(){c.killLeader, c.freezeLeader, c.partitionLeader, c.restartOneByOne}
	r.random.Shuffle(len(stages), func(i, j int) { stages[i], stages[j] = stages[j], stages[i] })
	if !r.long {
		stages = stages[:1]
	}
	for _, stage := range stages {
		stage()
		r.staged++
	}
	c.end()
}
