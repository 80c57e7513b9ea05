package server

import (
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

// On a disk that hangs, an ingress ends without its store, which stays locked for as long
// as it may still be written.
func TestStopOnHangingDisk(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	s := newSettings(t)
	s.DataDir = disk.Dir
	sys := run(t, s)
	hang, resume := make(chan struct{}), make(chan struct{})
	var once, resumed sync.Once
	lift := func() { resumed.Do(func() { close(resume) }) }
	t.Cleanup(lift)
	disk.FailSyncs(func(int, []byte) bool {
		once.Do(func() { close(hang) })
		<-resume
		return false
	})
	vendor, err := sender.New(sys.WebhookURL(), s.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		_, _ = vendor.Post(t.Context(), "msg_1", time.Now(), []byte(sample)) // its answer does not matter
	}()
	embeddedtest.Receive(t, "the disk hangs", hang)
	sys.Stop()
	if !strings.Contains(sys.log.String(), "the store does not stop") {
		t.Errorf("the log has no reason:\n%s", sys.log.String())
	}
	start := func() error {
		broker, err := embedded.Start(t.Context(), embedded.Config{Dir: s.DataDir, Listen: "127.0.0.1:0"})
		if err == nil {
			broker.Stop()
		}
		return err
	}
	if err := start(); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("another broker on the store: %v", err)
	}
	lift()
	embeddedtest.Receive(t, "an answer", posted)
	embeddedtest.Await(t, "the store is free", func() bool { return start() == nil })
}
