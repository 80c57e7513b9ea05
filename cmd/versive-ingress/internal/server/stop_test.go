package server

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// An ingress ends although its store hangs; the store stays locked for as long as it may
// still be written. Here a pipe takes the place of the file of the high-water marks.
func TestStopWithHangingStore(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	pipe := filepath.Join(s.DataDir, "marks.json.tmp")
	embeddedtest.Await(t, "no file is in the way", func() bool { return syscall.Mkfifo(pipe, 0o600) == nil })
	vendor, err := sender.New(sys.WebhookURL(), s.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	if a, err := vendor.Post(t.Context(), "msg_1", time.Now(), []byte(sample)); err != nil || a.Outcome != "stored" {
		t.Fatalf("got %v, %v", a, err)
	}
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
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	embeddedtest.Await(t, "the store is free", func() bool { return start() == nil })
	if err := os.RemoveAll(pipe); err != nil { // stopping it again would hang
		t.Error(err)
	}
}
