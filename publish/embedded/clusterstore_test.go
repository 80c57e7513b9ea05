package embedded_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// clusterConfigs returns the configurations of three servers of a cluster, whose data is in
// dir, with more in their files.
func clusterConfigs(t *testing.T, dir, more string) (all []embedded.Config) {
	t.Helper()
	routes := []string{embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)}
	for i, route := range routes {
		name := fmt.Sprint("node-", i)
		text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:-1\"\ncluster { name: c, listen: %q, routes: [\"nats://%s\"] }\n%s", name, route, strings.Join(routes, `", "nats://`), more)
		all = append(all, embedded.Config{Dir: filepath.Join(dir, name), ConfigFile: writeConfig(t, text)})
	}
	return all
}

// startCluster starts servers, and returns JetStream when they have a leader.
func startCluster(t *testing.T, configs []embedded.Config, options ...nats.Option) (brokers []*embedded.Broker, js jetstream.JetStream) {
	t.Helper()
	for _, c := range configs {
		brokers = append(brokers, embeddedtest.StartBroker(t, c))
	}
	js = embeddedtest.Connect(t, brokers[0].URL(), options...)
	embeddedtest.Await(t, "a leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
	return brokers, js
}

// A cluster does not start with a configuration by which it would remove its streams, and
// nothing is changed. It does with the remedy.
func TestInaccessibleStreamsOfACluster(t *testing.T) {
	t.Parallel()
	const (
		users  = `{ jetstream: enabled, users: [{user: u, password: u}] }`
		system = `accounts { SYS { users: [{user: s, password: s}] }, A ` + users + ` }, system_account: SYS`
	)
	for name, test := range map[string]struct {
		before, after string
		want          []string
		remedy        func(t *testing.T, err error, dir string) (config string)
	}{
		"accounts": {
			"accounts { A " + users + " }", "accounts { B " + users + " }",
			[]string{"the account A, which has no JetStream", "start with the old configuration", "versive-ingress broker"},
			func(t *testing.T, err error, _ string) string {
				if strings.Contains(err.Error(), "mv ") {
					t.Errorf("the streams would be removed: %v", err)
				}
				return "accounts { A " + users + " }"
			},
		},
		"system account": {
			"accounts { A " + users + " }", system,
			[]string{"system account $SYS", "mv '"},
			func(t *testing.T, err error, dir string) string {
				for i := range 3 {
					node := filepath.Join(dir, fmt.Sprint("node-", i))
					_, command, _ := strings.Cut(err.Error(), "on each: ")
					shell(t, strings.ReplaceAll(command, filepath.Join(dir, "node-0"), node))
				}
				return system
			},
		},
		"system account, set back": {
			"accounts { A " + users + " }", system,
			[]string{"set it back"},
			func(*testing.T, error, string) string { return "accounts { A " + users + " }" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			brokers, js := startCluster(t, clusterConfigs(t, dir, test.before), nats.UserInfo("u", "u"))
			embeddedtest.Await(t, "the stream is created", func() bool { // the leader may not know all servers yet
				_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: 3})
				return err == nil
			})
			for range 10 {
				if _, err := js.Publish(t.Context(), "s.1", nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range brokers {
				b.Stop()
			}
			stored := filepath.Join(dir, "node-0", "jetstream", "A")
			before := snapshot(t, stored)
			err := startFails(t, clusterConfigs(t, dir, test.after)[0], test.want...)
			if after := snapshot(t, stored); after != before {
				t.Errorf("the store has changed:\n%s\nwant\n%s", after, before)
			}
			_, js = startCluster(t, clusterConfigs(t, dir, test.remedy(t, err, dir)), nats.UserInfo("u", "u"))
			embeddedtest.Await(t, "the stream has its messages", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				stream, err := js.Stream(ctx, "S")
				return err == nil && stream.CachedInfo().State.Msgs == 10
			})
		})
	}
}
