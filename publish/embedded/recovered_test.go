package embedded_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish/embedded"
)

// No client can connect before the broker has checked that the store was recovered: a
// second ingress or a consumer would create a missing stream over the stored one.
func TestNoClientBeforeTheCheck(t *testing.T) {
	dir := t.TempDir()
	newStore(t, dir)
	edit(t, dir, "meta.inf", replaced(`"num_replicas":1`, `"num_replicas":3`)) // not accepted by the server

	// A port below the ephemeral ones, and outside the range of other packages' tests.
	address := fmt.Sprint("127.0.0.1:", 31_000+rand.N(700))
	starting, stop := context.WithCancel(t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for ; starting.Err() == nil; <-ticker.C {
			if nc, err := nats.Connect("nats://"+address, nats.Timeout(patience)); err == nil {
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
