package embedded_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

// The broker starts on a disk with less free space than a block takes, so that the
// events can be read. Btrfs, which never writes in place, would need that space.
func TestStartOnFullDisk(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultdisk.Kind{faultdisk.Ext4, faultdisk.XFS} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			disk := faultdisk.New(t, kind)
			dir := filepath.Join(disk.Dir, "data")
			newStore(t, dir)
			broker := embeddedtest.StartBroker(t, embedded.Config{Dir: dir})
			js := inProcess(t, broker)
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large"}}); err != nil {
				t.Fatal(err)
			}
			for range 6 {
				if _, err := js.Publish(t.Context(), "large", make([]byte, 1<<20-1<<10)); err != nil {
					t.Fatal(err)
				}
			}
			broker.Stop()
			filler, err := os.Create(filepath.Join(disk.Dir, "filler"))
			if err != nil {
				t.Fatal(err)
			}
			defer filler.Close()
			var used int64
			for size := int64(faultdisk.Size); size >= 2<<20; {
				err := unix.Fallocate(int(filler.Fd()), 0, used, size)
				switch {
				case err == nil:
					used += size
				case errors.Is(err, unix.ENOSPC):
					size /= 2
				default:
					t.Fatal(err)
				}
			}
			requireStore(t, inProcess(t, embeddedtest.StartBroker(t, embedded.Config{Dir: dir})))
		})
	}
}
