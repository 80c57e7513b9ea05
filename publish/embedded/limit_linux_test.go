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
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

// The measured limit of the store is the same after events were stored, and leaves a
// fifth of the disk free.
func TestMeasuredLimitIsStable(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	cfg := embedded.Config{Dir: filepath.Join(disk.Dir, "data"), Listen: "127.0.0.1:0"}
	broker := embeddedtest.StartBroker(t, cfg)
	_, before, err := broker.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if before > faultdisk.Size/5*4 {
		t.Errorf("the limit is %d of %d bytes", before, faultdisk.Size)
	}
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	const stored = 64 << 20
	for range stored >> 20 {
		if _, err := js.Publish(t.Context(), "s", make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	broker.Stop()
	_, after, err := embeddedtest.StartBroker(t, cfg).Usage()
	if err != nil {
		t.Fatal(err)
	}
	if change := after - before; max(change, -change) > stored/20 {
		t.Errorf("the limit was %d bytes and is %d after %d were stored", before, after, stored)
	}
}

// A broker that was started on an almost full disk accepts events when the disk has
// space, although its limit was measured before. If its configuration file cannot be
// read then, the broker continues with the limit that it has.
func TestMeasuredLimitFollowsDisk(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	disk.Fill(64 << 20)
	log := &embeddedtest.Log{}
	cfg := embedded.Config{Dir: filepath.Join(disk.Dir, "data"), ConfigFile: filepath.Join(t.TempDir(), "nats.conf"), Logger: slog.New(slog.NewTextHandler(log, nil))}
	configure := func(text string) {
		if err := os.WriteFile(cfg.ConfigFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure(`listen: "127.0.0.1:-1"`)
	broker := embeddedtest.StartBroker(t, cfg)
	js := inProcess(t, broker)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	fill := func() {
		for i := 0; broker.Ready() == nil; i++ {
			if i == 64 {
				t.Fatal("the store has no limit")
			}
			if _, err := js.Publish(t.Context(), "s", make([]byte, 1<<20)); err != nil {
				break
			}
		}
	}
	takesEvent := func() bool {
		_, err := js.Publish(t.Context(), "s", make([]byte, 1<<20))
		return err == nil && broker.Ready() == nil
	}

	fill()
	configure("listen: [")
	disk.Free()
	embeddedtest.Await(t, "the broker reads its configuration", func() bool { return strings.Contains(log.String(), cfg.ConfigFile) })
	if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the store takes an event within its old limit", takesEvent)

	fill()
	configure(`listen: "127.0.0.1:-1"`)
	embeddedtest.Await(t, "the store takes an event beyond its old limit", takesEvent)
}
