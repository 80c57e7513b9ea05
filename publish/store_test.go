package publish_test

import (
	"fmt"
	"slices"
	"testing"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// Store stores a list in order, whatever of it the stream has already: within the
// duplicate window and beyond it, erased or not, with batches and without.
func TestStore(t *testing.T) {
	t.Parallel()
	for _, batches := range []bool{true, false} {
		for _, forgotten := range []bool{true, false} {
			t.Run(fmt.Sprintf("batches=%v,forgotten=%v", batches, forgotten), func(t *testing.T) {
				t.Parallel()
				brokerCfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
				broker := embeddedtest.StartBroker(t, brokerCfg)
				cfg := config(broker.URL())
				p := openPublisher(t, cfg)
				js := embeddedtest.Connect(t, broker.URL())
				var list []schema.Message
				for i := range 40 {
					m := event(t, fmt.Sprintf("msg_%02d", i))
					list = append(list, m)
				}
				// A part of it is there, and one of these is erased.
				for _, i := range []int{0, 1, 2} {
					if _, err := p.Publish(t.Context(), list[i]); err != nil {
						t.Fatal(err)
					}
				}
				eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
				if _, err := eraser.EraseSubject(t.Context(), schema.KindEvent, list[1].Subject("versive")); err != nil {
					t.Fatal(err)
				}
				stream, err := js.Stream(t.Context(), "VERSIVE")
				if err != nil {
					t.Fatal(err)
				}
				config := stream.CachedInfo().Config
				if !batches {
					config.AllowAtomicPublish = false
				}
				if forgotten {
					config.Duplicates = 100_000_000 // 100ms
				}
				if _, err := js.UpdateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
				p.Close()
				if forgotten { // the window is read at the start
					broker.Stop()
					embeddedtest.StartBroker(t, brokerCfg)
				}
				cfg.KeepStreams, cfg.Hub = true, true
				p = openPublisher(t, cfg)

				receipts, err := p.Store(t.Context(), list)
				if err != nil || len(receipts) != len(list) {
					t.Fatalf("%d receipts, %v", len(receipts), err)
				}
				for i, r := range receipts {
					if r.Duplicate != (i < 3) || r.Erased != (i == 1) {
						t.Errorf("%d: %+v", i, r)
					}
				}
				again, err := p.Store(t.Context(), list)
				if err != nil || slices.ContainsFunc(again, func(r schema.Receipt) bool { return !r.Duplicate }) {
					t.Errorf("again: %+v, %v", again, err)
				}
				if kept := kept(t, js, "VERSIVE"); len(kept) != len(list) {
					t.Errorf("%d messages", len(kept))
				}
				last := 0
				for _, m := range kept(t, js, "VERSIVE")[3:] { // the first, the third, the tombstone
					at := slices.IndexFunc(list, func(l schema.Message) bool { return l.Subject("versive") == m })
					if at < last {
						t.Errorf("%s is after a later one", m)
					}
					last = at
				}
			})
		}
	}
}

// After a message that is not stored, none is.
func TestStoreKeepsOrder(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	cfg := config(f.server.ClientURL())
	p := openPublisher(t, cfg)
	var list []schema.Message
	for i := range 20 {
		list = append(list, event(t, fmt.Sprintf("msg_%02d", i)))
	}
	f.misbehave(nil, []fault{{Code: 10176}}, map[string]int{"msg_07": 10077})
	receipts, err := p.Store(t.Context(), list)
	if err == nil || len(receipts) != 7 || len(f.ids()) != 7 {
		t.Errorf("%d receipts, %v; stored: %v", len(receipts), err, f.ids())
	}
	f.misbehave(nil, nil, nil)
	if receipts, err := p.Store(t.Context(), list); err != nil || len(receipts) != len(list) {
		t.Errorf("%d receipts, %v", len(receipts), err)
	}
	if !slices.IsSorted(f.ids()) || len(f.ids()) != len(list) {
		t.Errorf("stored: %v", f.ids())
	}
}
