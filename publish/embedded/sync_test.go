package embedded_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// After a failed Sync the kernel may report no error again, so Sync fails until the server
// has been restarted.
func TestSyncFailsUntilRestart(t *testing.T) {
	t.Parallel()
	log := &embeddedtest.Log{}
	dir := t.TempDir()
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil))})
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.Sync(); err != nil {
		t.Fatal(err)
	}

	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "9.blk")
	if err := os.Symlink(block, block); err != nil {
		t.Fatal(err)
	}
	if err := broker.Sync(); err == nil {
		t.Fatal("a block cannot be opened, and Sync succeeds")
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "Sync succeeds", func() bool { return broker.Sync() == nil })
	if !strings.Contains(log.String(), "restarting it") {
		t.Error("Sync succeeds without a restart")
	}
}

// A server that has closed a stream acknowledges what it has not synced.
func TestStoppedBrokerIsNotDurable(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err := broker.Durable(false); err != nil {
		t.Fatal(err)
	}
	broker.Stop()
	if err := broker.Durable(false); err == nil {
		t.Error("the broker has stopped, and what it has acknowledged is taken for durable")
	}
}
