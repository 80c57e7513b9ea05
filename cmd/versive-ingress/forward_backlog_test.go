package main

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

var forwardBacklog = flag.Int("forward.backlog", 400, "TestForwardBacklog lets so many events of 8 KiB wait for the hub, and logs how fast they are forwarded")

// startHubCluster starts a hub of three servers, and returns their addresses.
func startHubCluster(t *testing.T) (*hub, []string) {
	t.Helper()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	h := &hub{}
	var addresses []string
	for i, route := range routes {
		// A client that learnt the other servers' addresses would go around the link.
		file := writeFile(t, "nats.conf", fmt.Sprintf(`
			server_name: hub-%d
			cluster { name: %q, listen: %q, no_advertise: true, routes: ["nats://%s"] }`, i, routes[0], route, strings.Join(routes, `", "nats://`)))
		h.cfg = embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t), ConfigFile: file, MaxPayload: 9 << 20}
		h.Broker = embeddedtest.StartBroker(t, h.cfg)
		addresses = append(addresses, h.cfg.Listen)
	}
	h.js = embeddedtest.Connect(t, h.URL(), nats.Timeout(2*time.Second))
	return h, addresses
}

// A backlog is forwarded quickly and in bounded memory, and webhooks are accepted
// meanwhile; to one server, and to a cluster with three replicas.
func TestForwardBacklog(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			var h *hub
			if replicas == 1 {
				h = startHub(t)
			} else {
				h, _ = startHubCluster(t)
			}
			e := startEdge(t, h, func(s *config.Settings) { s.ForwardReplicas = replicas })
			e.link.sever()
			text := strings.Replace(string(sample), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", 1600)+`"`, 1)
			began := time.Now()
			cfg := e.settings.Streams()
			cfg.URL, cfg.KeepStreams = e.BrokerURL(), true
			p, err := publish.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			for i := 0; i < *forwardBacklog; {
				var list []schema.Message
				for ; i < *forwardBacklog && len(list) < publish.MaxStoreLen; i++ {
					m, err := schema.Normalize(fmt.Sprint("msg_", i), []byte(text))
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, m)
				}
				if _, err := p.Store(t.Context(), list); err != nil {
					t.Fatal(err)
				}
			}
			embeddedtest.Await(t, "all is pending", func() bool { return e.pending(t) == *forwardBacklog })
			t.Logf("%d events stored in %v", *forwardBacklog, time.Since(began))
			e.link.restore()
			embeddedtest.Await(t, "the link is up", func() bool { return strings.HasSuffix(e.metric("versive_ingress_forward_connected"), " 1\n") })
			began = time.Now()
			var slowest time.Duration
			var memory runtime.MemStats
			for n := 0; ; n++ {
				posted := time.Now()
				e.send(t, fmt.Sprint("msg_new_", n))
				slowest = max(slowest, time.Since(posted))
				stream, err := h.js.Stream(t.Context(), "VERSIVE")
				if err != nil {
					t.Fatal(err)
				}
				if n%50 == 0 {
					var now runtime.MemStats
					if runtime.ReadMemStats(&now); now.HeapInuse > memory.HeapInuse {
						memory = now
					}
				}
				if stored := stream.CachedInfo().State.Msgs; stored >= uint64(*forwardBacklog) {
					took := time.Since(began)
					t.Logf("forwarded in %v: %.0f events/s; slowest webhook %v; heap in use at most %d MiB, brokers included", took, float64(stored)/took.Seconds(), slowest, memory.HeapInuse>>20)
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			embeddedtest.Await(t, "nothing is pending", func() bool { return e.pending(t) == 0 })
			if *forwardBacklog <= 10_000 && !e.inOrder(t, h) {
				t.Error("the hub does not have each event once, in order")
			}
		})
	}
}
