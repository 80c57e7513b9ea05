package publish_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A cluster differs from a single server: a copy can be in flight when the next one
// arrives, duplicates are checked elsewhere, and the leader can fail.
func TestCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	brokers := embeddedtest.StartCluster(t, dir)
	var urls []string
	for _, b := range brokers {
		urls = append(urls, b.URL())
	}
	cfg := config(strings.Join(urls, ","))
	cfg.Replicas = 3
	resendToNewStream(t, cfg)
	publishConcurrently(t, cfg, 100, 4)
	eraseOnCluster(t, cfg, dir)

	js := embeddedtest.Connect(t, cfg.URL)
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

	cfg.Timeout = 10 * time.Second // without a leader an attempt may not be answered
	p := openPublisher(t, cfg)
	m := event(t, "msg_after")
	embeddedtest.Await(t, "an event is stored without the old leader", func() bool {
		_, err := p.Publish(t.Context(), m)
		return err == nil
	})
	if receipt, err := p.Publish(t.Context(), event(t, "msg_0")); err != nil || !receipt.Duplicate {
		t.Errorf("got %+v, %v; want a duplicate", receipt, err)
	}
	embeddedtest.Await(t, "ready", func() bool { return p.Ready() == nil })
	if ids := stored(t, js, "VERSIVE"); len(ids) != 101 {
		t.Errorf("the stream holds %d messages, want 101", len(ids))
	}
}

// eraseOnCluster checks that erased copies are removed from the stream of every node.
// The replication logs of the nodes keep them for some minutes more.
func eraseOnCluster(t *testing.T, cfg publish.Config, dir string) {
	t.Helper()
	cfg.Stream, cfg.Subject = "ERASED", "erased"
	p := openPublisher(t, cfg)
	m := personal(t, "msg_1")
	for _, message := range []schema.Message{event(t, "msg_0"), m, event(t, "msg_2")} {
		if _, err := p.Publish(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	copies := func() int {
		files := filesWith(t, dir, marker)
		return len(slices.DeleteFunc(files, func(path string) bool { return !strings.Contains(path, "/streams/ERASED/") }))
	}
	embeddedtest.Await(t, "a copy on each node", func() bool { return copies() == 3 })
	eraser := publish.Eraser{JetStream: embeddedtest.Connect(t, cfg.URL), Stream: "ERASED"}
	c := publish.Copy{Kind: schema.KindEvent, Subject: m.Subject("erased"), Sequence: 2}
	for range 2 {
		if err := eraser.Erase(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	embeddedtest.Await(t, "no copy on any node", func() bool { return copies() == 0 })
	if got, err := p.Publish(t.Context(), m); err != nil || !got.Duplicate {
		t.Errorf("a resend: got %+v, %v", got, err)
	}
	want := fmt.Sprint([]string{event(t, "msg_0").Subject("erased"), event(t, "msg_2").Subject("erased"), c.Subject + "*"})
	embeddedtest.Await(t, "one tombstone", func() bool { return fmt.Sprint(kept(t, eraser.JetStream, "ERASED")) == want })
}
