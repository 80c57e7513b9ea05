package embedded_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// No client can connect before the broker has checked that the store was recovered: a
// second ingress or a consumer would create a missing stream over the stored one.
func TestNoClientBeforeTheCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newStore(t, dir)
	edit(t, dir, "meta.inf", replaced(`"num_replicas":1`, `"num_replicas":3`)) // not accepted by the server

	address := embeddedtest.FreeAddress(t)
	starting, stop := context.WithCancel(t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for ; starting.Err() == nil; <-ticker.C {
			if nc, err := nats.Connect("nats://"+address, nats.Timeout(embeddedtest.Timeout)); err == nil {
				nc.Close()
				t.Error("a client has connected")
				return
			}
		}
	})
	startFails(t, embedded.Config{Dir: dir, Listen: address}, "replicas > 1 not supported")
	stop()
	client.Wait()
}

// If the server would not find the streams with a configuration, the start fails
// with an error that has the remedy, and the store is not changed.
func TestInaccessibleStreams(t *testing.T) {
	t.Parallel()
	const (
		accounts = "listen: \"127.0.0.1:-1\"\naccounts { VERSIVE { jetstream: enabled, users: [{user: ingress, password: ingress}] } }"
		cluster  = "listen: \"127.0.0.1:-1\"\nserver_name: a\ncluster { name: c, listen: \"127.0.0.1:-1\", routes: [\"nats://127.0.0.1:1\"] }"
	)
	t.Run("accounts", func(t *testing.T) {
		dir := t.TempDir()
		newStore(t, dir)
		before := snapshot(t, streamPath(dir))
		cfg := embedded.Config{Dir: dir, ConfigFile: writeConfig(t, accounts)}
		err := startFails(t, cfg, "the account $G, which has no JetStream", "mv '"+dir)
		if after := snapshot(t, streamPath(dir)); after != before {
			t.Errorf("the stream has changed:\n%s\nwant\n%s", after, before)
		}
		_, command, _ := strings.Cut(err.Error(), "to VERSIVE: ")
		shell(t, command)
		broker := embeddedtest.StartBroker(t, cfg)
		requireStore(t, embeddedtest.Connect(t, broker.URL(), nats.UserInfo("ingress", "ingress")))
	})
	t.Run("cluster", func(t *testing.T) {
		dir := t.TempDir()
		newStore(t, dir)
		before := snapshot(t, filepath.Join(dir, "jetstream"))
		startFails(t, embedded.Config{Dir: dir, ConfigFile: writeConfig(t, cluster)}, "start without the cluster")
		if after := snapshot(t, filepath.Join(dir, "jetstream")); after != before {
			t.Errorf("the store has changed:\n%s\nwant\n%s", after, before)
		}
		requireStore(t, inProcess(t, embeddedtest.StartBroker(t, embedded.Config{Dir: dir})))
	})
	t.Run("another domain", func(t *testing.T) { // hides nothing
		dir := t.TempDir()
		newStore(t, dir, writeConfig(t, "listen: \"127.0.0.1:-1\"\njetstream { domain: a }"))
		requireStore(t, inProcess(t, embeddedtest.StartBroker(t, embedded.Config{Dir: dir, ConfigFile: writeConfig(t, "listen: \"127.0.0.1:-1\"\njetstream { domain: b }")})))
	})
	t.Run("no cluster", func(t *testing.T) {
		dir := t.TempDir()
		embeddedtest.StartBroker(t, embedded.Config{Dir: dir, ConfigFile: writeConfig(t, cluster)}).Stop()
		before := snapshot(t, filepath.Join(dir, "jetstream"))
		startFails(t, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"}, "start with the configuration file of the cluster")
		if after := snapshot(t, filepath.Join(dir, "jetstream")); after != before {
			t.Errorf("the store has changed:\n%s\nwant\n%s", after, before)
		}
	})
}
