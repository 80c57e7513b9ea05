package embedded_test

import (
	"os"
	"path/filepath"
	"testing"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

// An fsync of the server that runs while another aborts the journal can succeed without
// effect, so an acknowledgement after that proves nothing.
func TestJournalIsAborted(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultdisk.Kind{faultdisk.Ext4, faultdisk.XFS} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			disk := faultdisk.New(t, kind)
			b := embeddedtest.StartBroker(t, embedded.Config{Dir: filepath.Join(disk.Dir, "data")})
			other, err := os.Create(filepath.Join(disk.Dir, "other"))
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if err := b.Durable(false); err != nil {
				t.Fatalf("before: %v", err)
			}
			disk.FailSyncs(faultdisk.Always())
			if _, err := other.WriteString("other"); err != nil {
				t.Fatal(err)
			}
			if other.Sync() == nil {
				t.Fatal("the fsync did not fail")
			}
			disk.FailSyncs(nil)
			if b.Durable(false) == nil {
				t.Error("what the broker acknowledges is taken for durable")
			}
		})
	}
}
