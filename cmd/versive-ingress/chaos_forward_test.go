package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

var (
	forwardEvents = flag.Int("forward.events", 200, "TestChaosForward sends so many events")
	forwardSeeds  = flag.Int("forward.seeds", 1, "TestChaosForward runs with so many seeds, one after the other")
	forwardSeed   = flag.Uint64("forward.seed", 1, "the first of them")
)

// TestChaosForward sends events to two edges, of which one is a site of three ingresses,
// that forward them to a hub of three servers. A fifth of the answers is thrown away, and
// these events are resent to the other edge. Meanwhile links are cut, frozen and slowed,
// ingresses and servers of the hub are killed, and the leader of the hub's stream is killed
// after its duplicate window. One edge is restored from an older copy of its data. Some
// events are erased, at the site or at the hub.
//
// Each event that was answered 2xx by an edge that kept its disk is at the hub once, in
// the order of its edge. What the restored edge has lost is counted, and is no more than
// it had accepted since the copy. What was erased has no copy anywhere. The long form:
//
//	make chaos-forward
func TestChaosForward(t *testing.T) {
	if *forwardSeeds == 1 {
		t.Parallel()
	}
	for seed := *forwardSeed; seed < *forwardSeed+uint64(*forwardSeeds); seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { chaosForward(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// A federation is two edges and their hub.
type federation struct {
	testing.TB
	random *rand.Rand

	hub      *hub
	servers  [3]*exec.Cmd // of the hub
	configs  [3]embedded.Config
	links    []*proxy          // of all ingresses to the hub
	edges    []config.Settings // the ingress that is alone, and three of a site
	programs []*exec.Cmd
	logs     []*embeddedtest.Log // of the programs
	urls     []string            // of the ingresses
	secret   string
	slow     atomic.Bool

	mu       sync.Mutex
	tried    map[string][2]bool // by id, whether it was sent to edge 0 and 1; guarded by mu
	accepted map[string][]int   // by id, the edges that have answered 2xx; guarded by mu
	erased   map[string]bool    // guarded by mu
	recent   map[string]bool    // accepted by edge 0 since it was last restarted from here; guarded by mu
}

// takeRecent returns recent, and begins a new one, after the edge was killed.
func (f *federation) takeRecent() map[string]bool {
	time.Sleep(time.Second) // for answers that are being noted
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.recent
	f.recent = make(map[string]bool)
	return taken
}

const hubWindow = 5 * time.Second

func chaosForward(t *testing.T, random *rand.Rand) {
	f := &federation{TB: t, random: random, tried: make(map[string][2]bool), accepted: make(map[string][]int), erased: make(map[string]bool), recent: make(map[string]bool)}
	f.start(t)

	var sending sync.WaitGroup
	var next atomic.Int64
	for range 12 { // before the faults, which use random as well
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		sending.Go(func() {
			for n := next.Add(1); n <= int64(*forwardEvents); n = next.Add(1) {
				f.deliver(random, fmt.Sprintf("msg_%d", n))
			}
		})
	}
	faults := make(chan struct{})
	go func() { defer close(faults); f.disturb() }()
	erasing := make(chan struct{})
	go func() { defer close(erasing); f.erase(t, &next) }()
	// The edge that is alone is stopped, copied, and later restored from the copy.
	older := t.TempDir()
	embeddedtest.Await(t, "a third is sent", func() bool { return next.Load() > int64(*forwardEvents)/3 })
	f.restart(0, func(s *config.Settings) {
		if err := os.CopyFS(older, os.DirFS(s.DataDir)); err != nil {
			t.Fatal(err)
		}
		f.takeRecent()
	})
	f.await("two thirds are sent", func() bool { return next.Load() > 2*int64(*forwardEvents)/3 })
	var lost map[string]bool
	f.restart(0, func(s *config.Settings) { s.DataDir, lost = older, f.takeRecent() })
	sending.Wait()
	<-faults
	<-erasing
	f.settle(t, lost)
}

// await is Await without its limit, for the long form.
func (f *federation) await(what string, condition func() bool) {
	for began := time.Now(); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 6*time.Hour {
			f.Fatal("not within 6 hours: " + what)
		}
	}
}

func (f *federation) start(t *testing.T) {
	// The hub: three processes.
	var routes []string
	for range f.servers {
		routes = append(routes, embeddedtest.FreeAddress(t))
	}
	for i := range f.servers {
		file := writeFile(t, "nats.conf", fmt.Sprintf(`
			server_name: hub-%d
			cluster { name: %q, listen: %q, no_advertise: true, routes: ["nats://%s"] }`, i, routes[0], routes[i], strings.Join(routes, `", "nats://`)))
		f.configs[i] = embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t), ConfigFile: file}
		f.servers[i] = launchBroker(t, f.configs[i])
	}
	urls := make([]string, len(f.configs))
	for i, c := range f.configs {
		urls[i] = "nats://" + c.Listen
	}
	f.hub = &hub{js: embeddedtest.Connect(t, strings.Join(urls, ","))}

	// The edges: one alone, and a site of three.
	site := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	f.secret = config.NewSecret()
	for i := range 4 {
		s := newSettings(t)
		s.Secrets = []string{f.secret}
		s.ForwardReplicas, s.DedupeWindow = 3, hubWindow
		var links []string
		for _, c := range f.configs {
			link := newProxy(t, c.Listen, func() (v verdict) {
				if f.slow.Load() {
					v.delay = time.Millisecond
				}
				return v
			})
			f.links = append(f.links, link)
			links = append(links, "nats://"+link.address())
		}
		s.ForwardURL = strings.Join(links, ",")
		if i > 0 {
			s.Replicas = 3
			s.NATSConfig = writeFile(t, "site.conf", fmt.Sprintf(`
				server_name: site-%d
				listen: %q
				cluster { name: %q, listen: %q, routes: ["nats://%s"] }`, i, s.NATSListen, site[0], site[i-1], strings.Join(site, `", "nats://`)))
			s.NATSListen = ""
		}
		f.edges, f.urls = append(f.edges, s), append(f.urls, "http://"+s.Listen+s.Path)
		f.programs, f.logs = append(f.programs, nil), append(f.logs, nil)
		f.launch(i)
		t.Cleanup(func() {
			if text := f.logs[i].String(); t.Failed() {
				t.Logf("ingress %d:\n%s", i, text[max(0, len(text)-3000):])
			}
		})
	}
	for i := range f.edges {
		embeddedtest.Await(t, "ready", func() bool { return f.ready(i) })
	}
}

func (f *federation) launch(i int) {
	f.programs[i], f.logs[i] = launch(f, "versive-ingress", f.edges[i])
}

// ready reports whether an ingress is ready. As a supervisor does, it starts one again that
// has ended by itself: a member of a new cluster may, if another has just created a stream.
func (f *federation) ready(i int) bool {
	if strings.Contains(f.logs[i].String(), "versive-ingress: opening publisher: ") {
		kill(f.programs[i])
		f.launch(i)
	}
	return readyz(f.edges[i]) == http.StatusOK
}

// restart ends an ingress, changes its settings, and starts it again.
func (f *federation) restart(i int, change func(*config.Settings)) {
	kill(f.programs[i])
	change(&f.edges[i])
	f.launch(i)
}

// deliver posts an event until it is accepted. A fifth of the answers is thrown away: the
// event is resent to the other edge, sometimes after the hub's duplicate window.
func (f *federation) deliver(random *rand.Rand, id string) {
	edge := random.IntN(2)
	for attempts := 0; ; attempts++ {
		i := edge
		if edge == 1 {
			i += random.IntN(3)
		}
		f.mu.Lock()
		tried := f.tried[id]
		tried[edge] = true
		f.tried[id] = tried
		f.mu.Unlock()
		response, err := http.DefaultClient.Do(signed(f.urls[i], f.secret, id, interview(id)))
		if err == nil {
			response.Body.Close()
		}
		if err != nil || response.StatusCode != http.StatusOK {
			time.Sleep(50 * time.Millisecond)
			if attempts%20 == 19 {
				edge = 1 - edge
			}
			continue
		}
		f.mu.Lock()
		f.accepted[id] = append(f.accepted[id], edge)
		if edge == 0 {
			f.recent[id] = true
		}
		f.mu.Unlock()
		if random.IntN(5) > 0 {
			return
		}
		if random.IntN(10) == 0 {
			time.Sleep(hubWindow + time.Second)
		}
		edge = 1 - edge
	}
}

// disturb stages faults, each for a while.
func (f *federation) disturb() {
	rounds := 6 + *forwardEvents/2000
	for round := range rounds {
		time.Sleep(time.Duration(f.random.IntN(1000)) * time.Millisecond)
		pause := time.Duration(500+f.random.IntN(2500)) * time.Millisecond
		kind := f.random.IntN(6)
		if round < 6 { // each at least once
			kind = round
		}
		switch server := f.random.IntN(len(f.servers)); kind {
		case 0: // a cut
			links := f.links[f.random.IntN(2)*3:]
			for _, link := range links {
				link.sever()
			}
			time.Sleep(pause)
			for _, link := range links {
				link.restore()
			}
		case 1: // a slow link
			f.slow.Store(true)
			time.Sleep(pause)
			f.slow.Store(false)
		case 2: // a frozen server
			thaw := freeze(f, f.servers[server])
			time.Sleep(pause)
			thaw()
		case 3: // a killed server
			f.bounce(server)
		case 4: // the leader of the stream, after the window
			time.Sleep(hubWindow)
			if stream, err := f.hub.js.Stream(f.Context(), "VERSIVE"); err == nil && stream.CachedInfo().Cluster != nil {
				if _, err := fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "hub-%d", &server); err == nil {
					f.bounce(server)
				}
			}
		case 5: // an ingress of the site, and with it perhaps the forwarder
			f.restart(1+f.random.IntN(3), func(*config.Settings) {})
		}
	}
}

func (f *federation) bounce(server int) {
	kill(f.servers[server])
	f.servers[server] = launchBroker(f, f.configs[server])
}
