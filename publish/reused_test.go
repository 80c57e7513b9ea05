package publish_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A broker restarts without its last messages, and so many are stored immediately that
// no check finds the stream shorter than before.
func TestReusedSequencesAreReported(t *testing.T) {
	d := newIngressDir(t)
	store, earlier := filepath.Join(d.dir, "jetstream"), t.TempDir()
	restart := func(change func() error) {
		t.Helper()
		d.broker.Stop()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		d.startBroker()
	}
	storeMany := func(what string, n int) {
		t.Helper()
		var all sync.WaitGroup
		for i := range n {
			m := event(t, fmt.Sprintf("msg_%s_%d", what, i))
			all.Go(func() {
				if o := publishUntilStored(t, d.p, m); o.err != nil {
					t.Errorf("%s is not stored: %v", o.id, o.err)
				}
			})
		}
		all.Wait()
	}
	storeMany("kept", 5)
	restart(func() error { return os.CopyFS(earlier, os.DirFS(store)) })
	storeMany("lost", 10)
	restart(func() error {
		if err := os.RemoveAll(store); err != nil {
			return err
		}
		return os.CopyFS(store, os.DirFS(earlier))
	})
	storeMany("new", 100)
	// A check may find a part of the loss while they are stored, and the next one the rest.
	lost := func() float64 { return d.metrics()["stream_lost_events_total VERSIVE"] }
	embeddedtest.Await(t, "the loss is reported", func() bool { return lost() == 10 })
	embeddedtest.Await(t, "everything is compared", func() bool { return d.p.Ready() == nil })
	storeMany("more", 10)
	d.stop()
	losses, _, err := publish.ReadLosses(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	var sequences schema.Sequences
	for _, l := range losses {
		sequences = sequences.Union(l.Sequences)
	}
	if n := lost(); n != 10 || sequences.String() != "6-15" {
		t.Errorf("%v messages are reported, %v, want 6-15:\n%s", n, sequences, &d.log)
	}
}
