package embedded_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

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
// space, although its limit was measured before.
func TestMeasuredLimitFollowsDisk(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	filler := filepath.Join(disk.Dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s unix.Statfs_t
	if err := unix.Statfs(disk.Dir, &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Frsize-64<<20); err != nil {
		t.Fatal(err)
	}
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: filepath.Join(disk.Dir, "data")})
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for i := 0; broker.Ready() == nil; i++ {
		if i == 64 {
			t.Fatal("the store has no limit")
		}
		if _, err := js.Publish(t.Context(), "s", make([]byte, 1<<20)); err != nil {
			break
		}
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the store takes an event", func() bool {
		_, err := js.Publish(t.Context(), "s", make([]byte, 1<<20))
		return err == nil && broker.Ready() == nil
	})
}
