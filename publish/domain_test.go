package publish_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A leaf node connects an edge to a hub that has a stream of the same name and subjects
// in another JetStream domain. The publisher at the edge does not accept the hub's
// acknowledgements, neither of single messages, nor of batches, nor of resends.
func TestAcknowledgedByAnotherDomain(t *testing.T) {
	t.Parallel()
	leafs := embeddedtest.FreeAddress(t)
	hub, _ := startConfigured(t, fmt.Sprintf(`
		server_name: hub, listen: "127.0.0.1:-1", jetstream { store_dir: %q, domain: hub }
		leafnodes { listen: %q }`, t.TempDir(), leafs))
	// The ingress cannot create streams, so that the edge has none after the deletion.
	edge, _ := startConfigured(t, fmt.Sprintf(`
		server_name: edge, listen: "127.0.0.1:-1", jetstream { store_dir: %q, domain: edge }
		leafnodes { remotes: [{ url: "nats://%s" }] }
		no_auth_user: admin
		authorization { users: [
			{ user: admin, password: secret }
			{ user: ingress, password: secret, permissions: { publish: { deny: "$JS.API.STREAM.CREATE.>" } } }
		] }`, t.TempDir(), leafs))
	atHub, atEdge := embeddedtest.Connect(t, hub.ClientURL()), embeddedtest.Connect(t, edge.ClientURL())
	create := func(js jetstream.JetStream, name, subject string) {
		t.Helper()
		if _, err := js.CreateStream(t.Context(), byHand(func(c *jetstream.StreamConfig) { c.Name, c.Subjects = name, []string{subject} })); err != nil {
			t.Fatal(err)
		}
	}
	create(atHub, "VERSIVE", "versive.>")
	create(atEdge, "VERSIVE", "versive.>")
	create(atEdge, "VERSIVE_QUARANTINE", "versive-quarantine.>")

	cfg := config("nats://ingress:secret@" + edge.Addr().String())
	cfg.Mode, cfg.Timeout = publish.ModeBatch, 2*time.Second
	p := openPublisher(t, cfg)
	if err := atEdge.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the interest of the hub has reached the edge", func() bool {
		_, err := atEdge.PublishMsg(t.Context(), &nats.Msg{Subject: "versive.x"}, jetstream.WithRetryAttempts(0))
		return err == nil
	})

	const events = 64
	publishAll := func(then func(id string, err error)) {
		var wg sync.WaitGroup
		for i := range events {
			id := fmt.Sprintf("msg_%d", i)
			m := event(t, id)
			wg.Go(func() {
				receipt, err := p.Publish(t.Context(), m)
				if err == nil && receipt.Stream != "VERSIVE" {
					t.Errorf("%s: got %+v", id, receipt)
				}
				then(id, err)
			})
		}
		wg.Wait()
	}
	for range 2 {
		publishAll(func(id string, err error) {
			if err == nil {
				t.Errorf("%s: acknowledged, but the edge does not have it", id)
			}
		})
	}
	if n := len(stored(t, atHub, "VERSIVE")); n == 0 {
		t.Error("the hub has stored nothing, so nothing was tested")
	}
	if p.Ready() == nil {
		t.Error("ready, although the edge stores nothing")
	}

	create(atEdge, "VERSIVE", "versive.>")
	var mu sync.Mutex
	missing := events
	embeddedtest.Await(t, "all are stored at the edge", func() bool {
		missing = 0
		publishAll(func(_ string, err error) {
			if err != nil { // the hub has answered first
				mu.Lock()
				defer mu.Unlock()
				missing++
			}
		})
		return missing == 0
	})
	ids := map[string]int{}
	for _, id := range stored(t, atEdge, "VERSIVE") {
		ids[id]++
	}
	for i := range events {
		if n := ids[fmt.Sprintf("msg_%d", i)]; n != 1 {
			t.Errorf("msg_%d is stored %d times at the edge", i, n)
		}
	}
}
