package main

import (
	"fmt"
	"os"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

// The data directory of an ingress that has stopped is copied, lost, and put
// back. All that had been sent is sent again, to a second endpoint with a secret of
// its own: what is in the copy is known, what came after it is stored, and nothing
// is there twice, not even what both endpoints send.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	backup := t.TempDir()
	copyDir := func(to, from string) {
		t.Helper()
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	before, after := make(map[string]uint64), make(map[string]uint64)
	post := func(sys *system, sent map[string]uint64, id string) {
		t.Helper()
		a := sys.post(t, id, interview(id))
		if a.Outcome != "stored" {
			t.Fatalf("%s: %v", id, a)
		}
		sent[id] = a.Sequence
	}

	sys := run(t, s)
	for n := range 20 {
		post(sys, before, fmt.Sprint("msg_before_", n))
	}
	raw := sys.post(t, "msg_raw", []byte("not JSON"))
	sys.Stop()
	copyDir(backup, s.DataDir)

	sys = run(t, s)
	for n := range 10 {
		post(sys, after, fmt.Sprint("msg_after_", n))
	}
	sys.Stop()
	if err := os.RemoveAll(s.DataDir); err != nil {
		t.Fatal(err)
	}

	copyDir(s.DataDir, backup)
	first := s.Secrets[0]
	s.Secrets = []string{config.NewSecret(), first}
	sys = run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	requireStored(t, js, s.Stream, before)
	for id, sequence := range before {
		if a := sys.post(t, id, interview(id)); a.Outcome != "duplicate" || a.Sequence != sequence {
			t.Errorf("%s, which is in the copy, was stored at %d; sent again: %v", id, sequence, a)
		}
	}
	if a := sys.post(t, "msg_raw", []byte("not JSON")); a.Status != raw.Status || a.Outcome != raw.Outcome {
		t.Errorf("what is in the quarantine, sent again: %v", a)
	}
	for id := range after {
		post(sys, before, id)
	}
	post(sys, before, "msg_new")
	sys.settings.Secrets = []string{first} // the other endpoint sends it as well
	if a := sys.post(t, "msg_new", interview("msg_new")); a.Outcome != "duplicate" || a.Sequence != before["msg_new"] {
		t.Errorf("msg_new, stored at %d, from the other endpoint: %v", before["msg_new"], a)
	}
	requireStored(t, js, s.Stream, before)
	quarantine, err := js.Stream(t.Context(), s.Stream+"_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	if n := quarantine.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the quarantine has %d messages, want 1", n)
	}
	if n := len(readStream(t, js, s.Stream)); n != 31 {
		t.Errorf("the stream has %d events, want 31", n)
	}
}
