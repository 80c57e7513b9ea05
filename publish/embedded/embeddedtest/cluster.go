package embeddedtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"versive-ingress/publish/embedded"
)

// StartCluster runs a cluster of three brokers, node-0 to node-2, until the test ends,
// and waits until it has a leader. Their data is in dir, in directories of their names.
func StartCluster(t testing.TB, dir string) []*embedded.Broker {
	t.Helper()
	routes := []string{FreeAddress(t), FreeAddress(t), FreeAddress(t)}
	brokers := make([]*embedded.Broker, len(routes))
	for i, route := range routes {
		name := fmt.Sprint("node-", i)
		file := filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf(`
			server_name: %s
			listen: "127.0.0.1:-1"
			cluster {
				name: test
				listen: %q
				routes: ["nats://%s"]
			}`, name, route, strings.Join(routes, `", "nats://`))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		brokers[i] = StartBroker(t, embedded.Config{Dir: filepath.Join(dir, name), ConfigFile: file})
	}
	js := Connect(t, brokers[0].URL())
	Await(t, "the cluster has a leader", func() bool { // it does not answer before
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
	return brokers
}
