package publish_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A broker restarts without its last messages, and so many are stored immediately that
// no check finds the stream shorter than before.
func TestReusedSequencesAreReported(t *testing.T) {
	d := newIngressDir(t)
	address := strings.TrimPrefix(d.broker.URL(), "nats://")
	store, earlier := filepath.Join(d.dir, "jetstream"), t.TempDir()
	restart := func(change func() error) {
		t.Helper()
		d.broker.Stop()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		d.broker = embeddedtest.StartBroker(t, embedded.Config{Dir: d.dir, Listen: address})
	}
	storeMany := func(what string, n int) {
		t.Helper()
		var all sync.WaitGroup
		for i := range n {
			m, err := schema.Normalize(fmt.Sprintf("msg_%s_%d", what, i), []byte(`{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":"s"}}`))
			if err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				for t.Context().Err() == nil {
					if _, err := d.p.Publish(t.Context(), m); err == nil {
						return
					}
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
	embeddedtest.Await(t, "the loss is reported", func() bool {
		return strings.Contains(d.log.String(), `problem=went_back messages=10 sequences=6-15`)
	})
	embeddedtest.Await(t, "everything is compared", func() bool { return d.p.Ready() == nil })
	storeMany("more", 10)
	d.stop()
	if n := strings.Count(d.log.String(), "stream has lost messages"); n != 1 {
		t.Errorf("%d losses are reported, want 1:\n%s", n, &d.log)
	}
}
