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

// Nobody is connected before the broker knows that the store was recovered: a
// second ingress or a consumer would create what is missing, over what is there.
func TestNobodyConnectsBeforeTheCheck(t *testing.T) {
	dir := t.TempDir()
	newStore(t, dir)
	edit(t, dir, "meta.inf", replaced(`"num_replicas":1`, `"num_replicas":3`)) // which the server refuses

	// Below the ports that the system gives out, and not one of another package's tests.
	address := fmt.Sprint("127.0.0.1:", 31_000+rand.N(700))
	starting, stop := context.WithCancel(t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for ; starting.Err() == nil; <-ticker.C {
			if nc, err := nats.Connect("nats://"+address, nats.Timeout(patience)); err == nil {
				nc.Close()
				t.Error("a client was connected")
				return
			}
		}
	})
	startFails(t, embedded.Config{Dir: dir, Listen: address}, "replicas > 1 not supported")
	stop()
	client.Wait()
}
