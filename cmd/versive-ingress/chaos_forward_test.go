package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
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
// ingresses, forwarders and servers of the hub are killed, and the leader of the hub's
// stream is killed after its duplicate window. The edge that is alone is restored from an
// older copy of its data, and loses its disk later; a member of the site loses its disk.
// Some events are erased, at either edge or at the hub, with its links up or cut.
//
// Each event that was answered 2xx by an edge that kept its disk is at the hub once, in
// the order of its edge. What the disks of the lone edge have cost is counted, and is no
// more than what waited there. What was erased is on no disk, and is rejected everywhere.
// The long form:
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
	*testing.T
	random *rand.Rand
	long   bool
	window time.Duration // of the hub

	hub       *hub
	servers   [3]*exec.Cmd // of the hub
	configs   [3]embedded.Config
	links     []*proxy          // of all ingresses to the hub, three each
	ingresses []config.Settings // edge 0, which is alone, and the three of edge 1, a site
	programs  []*exec.Cmd
	logs      []*embeddedtest.Log // of the programs
	senders   []sender.Sender     // to the ingresses
	secret    string
	slow      atomic.Bool
	linking   sync.Mutex // held while links are cut or frozen

	begun, requests atomic.Int64
	quota           atomic.Int64 // events after it are not sent yet
	staged          int
	disks           []disk // that edge 0 has no longer

	// alone is shared by what uses edge 0, and held while its disk is replaced.
	alone  sync.RWMutex
	number int // of disks of edge 0 that were replaced; guarded by alone

	mu       sync.Mutex
	tried    map[string][2]bool         // by id, whether it was sent to edge 0 and 1; guarded by mu
	accepted map[string][]int           // by id, the edges that have answered 2xx; guarded by mu
	erasures map[string]*plannedErasure // by id
}

// A plannedErasure is of an event that is first sent to the edge at which it is erased.
type plannedErasure struct {
	edge int  // -1 is the hub
	cut  bool // the links of the edge, or all of them, are cut meanwhile

	accepted int // number of the disk on which edge 0 has it, and 1; guarded by mu
	erased   int // the same of its erasure; guarded by mu
}

func chaosForward(t *testing.T, random *rand.Rand) {
	f := &federation{
		T: t, random: random, long: *forwardEvents >= 10_000, window: time.Second,
		tried: make(map[string][2]bool), accepted: make(map[string][]int), erasures: make(map[string]*plannedErasure),
	}
	if f.long {
		f.window = 5 * time.Second
	}
	f.plan()
	f.start()
	began := time.Now()

	var sending, erasing sync.WaitGroup
	defer sending.Wait()
	defer erasing.Wait()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: config.SenderTimeout}
	defer client.CloseIdleConnections()
	for i := range f.senders {
		f.senders[i].HTTP = client
	}
	for range 64 {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		sending.Go(func() {
			for n := f.begun.Add(1); n <= int64(*forwardEvents); n = f.begun.Add(1) {
				for n > f.quota.Load() && !f.Failed() {
					time.Sleep(5 * time.Millisecond)
				}
				id := fmt.Sprintf("msg_%d", n)
				if edge := f.deliver(random, id, random.IntN(2)); edge >= 0 {
					again := rand.New(rand.NewPCG(random.Uint64(), 0))
					sending.Go(func() { // after the hub's window
						time.Sleep(f.window + time.Second)
						f.deliver(again, id, edge)
					})
				}
			}
		})
	}
	erasing.Go(f.erase)
	f.disturb()
	sending.Wait()
	erasing.Wait()
	sent := time.Since(began)
	f.settle()
	t.Logf("%d events in %d requests, %d faults; sent in %v, checked after %v", *forwardEvents, f.requests.Load(), f.staged,
		sent.Round(time.Second), time.Since(began).Round(time.Second))
}

// await is Await with a limit for the long form. It ends early if the test has failed.
func (f *federation) await(what string, condition func() bool) {
	f.Helper()
	for began := time.Now(); !condition(); time.Sleep(20 * time.Millisecond) {
		if f.Failed() || time.Since(began) > 10*time.Minute {
			f.Fatal("not within 10 minutes, or before the test has failed: " + what)
		}
	}
}

func (f *federation) start() {
	// The hub: three processes, which are launched last.
	var routes []string
	for range f.servers {
		routes = append(routes, embeddedtest.FreeAddress(f))
	}
	for i := range f.servers {
		file := writeFile(f.T, "nats.conf", fmt.Sprintf(`
			server_name: hub-%d
			cluster { name: %q, listen: %q, no_advertise: true, routes: ["nats://%s"] }`, i, routes[0], routes[i], strings.Join(routes, `", "nats://`)))
		f.configs[i] = embedded.Config{Dir: f.TempDir(), Listen: embeddedtest.FreeAddress(f), ConfigFile: file}
	}

	// The edges: one alone, and a site of three.
	site := []string{embeddedtest.FreeAddress(f), embeddedtest.FreeAddress(f), embeddedtest.FreeAddress(f)}
	f.secret = config.NewSecret()
	for i := range 4 {
		s := newSettings(f)
		s.Secrets = []string{f.secret}
		s.ForwardReplicas, s.DedupeWindow = 3, f.window
		var links []string
		for _, c := range f.configs {
			link := newProxy(f, c.Listen, func() (v verdict) {
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
			s.NATSConfig = writeFile(f.T, "site.conf", fmt.Sprintf(`
				server_name: site-%d
				listen: %q
				cluster { name: %q, listen: %q, routes: ["nats://%s"] }`, i, s.NATSListen, site[0], site[i-1], strings.Join(site, `", "nats://`)))
			s.NATSListen = ""
		}
		to := sender.Sender{URL: "http://" + s.Listen + s.Path}
		if err := to.SignWith(f.secret); err != nil {
			f.Fatal(err)
		}
		f.ingresses, f.senders = append(f.ingresses, s), append(f.senders, to)
		f.programs, f.logs = append(f.programs, nil), append(f.logs, nil)
		f.launch(i)
		f.Cleanup(func() {
			if text := f.logs[i].String(); f.Failed() {
				f.Logf("ingress %d:\n%s", i, text[max(0, len(text)-3000):])
			}
		})
	}
	for i, c := range f.configs {
		f.servers[i] = launchBroker(f, c)
	}
	f.hub = &hub{js: embeddedtest.Connect(f, f.hubURL())}
	f.awaitReady()
}

func (f *federation) hubURL() string {
	var urls []string
	for _, c := range f.configs {
		urls = append(urls, "nats://"+c.Listen)
	}
	return strings.Join(urls, ",")
}

// siteURL returns the address of all brokers of the site.
func (f *federation) siteURL() string {
	var urls []string
	for _, s := range f.ingresses[1:] {
		urls = append(urls, "nats://"+strings.Split(readText(f.T, s.NATSConfig), "\"")[1])
	}
	return strings.Join(urls, ",")
}

func (f *federation) launch(i int) {
	f.programs[i], f.logs[i] = launch(f, "versive-ingress", f.ingresses[i])
}

func (f *federation) awaitReady() {
	f.Helper()
	for i := range f.ingresses {
		f.await(fmt.Sprintf("ingress %d is ready", i), func() bool { return f.ready(i) })
	}
}

// ready reports whether an ingress is ready. As a supervisor does, it starts one again that
// has ended by itself: a member of a new cluster may, if another has just created a stream.
func (f *federation) ready(i int) bool {
	if strings.Contains(f.logs[i].String(), "versive-ingress: opening publisher: ") {
		kill(f.programs[i])
		f.launch(i)
	}
	return readyz(f.ingresses[i]) == http.StatusOK
}

// quarantined reports whether an event is one that the ingresses do not understand.
func quarantined(id string) bool { return strings.HasSuffix(id, "47") }

// content stands before the id of an event in its content, and a semicolon after it.
const content = "the content of "

// body returns a webhook with content of its own.
func (f *federation) body(id string) []byte {
	body := bytes.Replace(interview(id), []byte(`"transcript": "`), []byte(`"transcript": "`+content+id+`;`), 1)
	if quarantined(id) {
		body = bytes.Replace(body, []byte("interview.completed"), []byte("interview.imagined"), 1)
	}
	return body
}

// deliver posts an event until it is accepted. A fifth of the answers is thrown away: the
// event is resent to the other edge. If that is to be done later, it returns that edge, and
// otherwise -1.
func (f *federation) deliver(random *rand.Rand, id string, edge int) (later int) {
	erasure := f.erasures[id]
	if erasure != nil && len(f.acceptedBy(id)) == 0 { // an erasure at the hub must not wait for a disk that is lost
		if edge = erasure.edge; edge < 0 {
			edge = 1
		}
	}
	for attempts := 1; !f.Failed(); attempts++ {
		if !f.post(random, id, edge) {
			time.Sleep(50 * time.Millisecond)
			if attempts%5 == 0 && erasure == nil {
				edge = 1 - edge
			}
			continue
		}
		edge, attempts, erasure = 1-edge, 0, nil
		switch n := random.IntN(50); {
		case n == 0:
			return edge
		case n >= 10:
			return -1
		}
	}
	return -1
}

func (f *federation) acceptedBy(id string) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.accepted[id])
}

// post posts an event to an edge once.
func (f *federation) post(random *rand.Rand, id string, edge int) (accepted bool) {
	i := edge * (1 + random.IntN(3))
	if i == 0 {
		f.alone.RLock()
		defer f.alone.RUnlock()
	}
	f.mu.Lock()
	tried := f.tried[id]
	tried[edge] = true
	f.tried[id] = tried
	f.mu.Unlock()
	f.requests.Add(1)
	answer, err := f.senders[i].Post(f.Context(), id, time.Now(), f.body(id))
	if err != nil || !answer.Accepted() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted[id] = append(f.accepted[id], edge)
	if e := f.erasures[id]; e != nil && e.edge == 0 && edge == 0 {
		e.accepted = f.number + 1
	} else if e != nil && e.edge != 0 && edge == 1 {
		e.accepted = 1
	}
	return true
}
