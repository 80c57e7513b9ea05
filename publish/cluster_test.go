package publish_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"versive-ingress/publish/embedded"
)

// On a cluster a copy can be in flight when the next one arrives, the first
// check is another one than on a single server, and the leader can go away.
func TestCluster(t *testing.T) {
	brokers := startCluster(t)
	var urls []string
	for _, b := range brokers {
		urls = append(urls, b.URL())
	}
	cfg := config(strings.Join(urls, ","))
	cfg.Replicas = 3
	cfg.Timeout = 5 * time.Second
	publishConcurrently(t, cfg, 100, 4)

	js := connect(t, cfg.URL)
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	leader := stream.CachedInfo().Cluster.Leader
	for i, b := range brokers {
		if fmt.Sprintf("node-%d", i) == leader {
			b.Stop()
		}
	}

	p := openPublisher(t, cfg)
	m := event(t, "msg_after")
	await(t, "an event is stored without the old leader", 30*time.Second, func() bool {
		_, err := p.Publish(t.Context(), m)
		return err == nil
	})
	if receipt, err := p.Publish(t.Context(), event(t, "msg_0")); err != nil || !receipt.Duplicate {
		t.Errorf("got %+v, %v; want a duplicate", receipt, err)
	}
	await(t, "ready", 10*time.Second, func() bool { return p.Ready() == nil })
	if ids := stored(t, js, "VERSIVE"); len(ids) != 101 {
		t.Errorf("the stream holds %d messages, want 101", len(ids))
	}
}

// startCluster runs three brokers that form a cluster.
func startCluster(t *testing.T) []*embedded.Broker {
	t.Helper()
	routes := make([]string, 3)
	for i := range routes {
		routes[i] = freeAddress(t)
	}
	brokers := make([]*embedded.Broker, len(routes))
	for i, route := range routes {
		file := filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf(`
			server_name: node-%d
			listen: "127.0.0.1:-1"
			cluster {
				name: test
				listen: %q
				routes: ["nats://%s"]
			}`, i, route, strings.Join(routes, `", "nats://`))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		brokers[i] = startBroker(t, embedded.Config{ConfigFile: file})
	}
	return brokers
}

// freeAddress returns an address on the loopback that nobody listens on. Its
// port is below those that the system gives to connections, so nothing takes it
// between now and its use, or while a broker is away.
func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.N(20000))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
}
