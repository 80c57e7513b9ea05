package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

var eraseEvents = flag.Int("erase.events", 300, "TestEraseMany erases a tenth of so many interviews")

// An erasure of many interviews, killed at random, is completed by the same command. It
// erases everything of them, and nothing else.
func TestEraseMany(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	fill(t, sys.BrokerURL(), 1, *eraseEvents)
	erased := make(map[string]bool)
	var ids strings.Builder
	for _, n := range rand.Perm(*eraseEvents)[:*eraseEvents/10] {
		id := fmt.Sprintf("interview_%d", n+1)
		erased[id] = true
		fmt.Fprintln(&ids, id)
		if n%10 == 0 { // some in the quarantine as well
			sys.post(t, "raw_"+id, plantedBody("interview.started", id))
		}
	}
	sys.post(t, "raw_kept", plantedBody("interview.started", "kept"))
	list, record := filepath.Join(t.TempDir(), "ids"), filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(list, []byte(ids.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "versive-ingress", "erase", "--from-file", list, "--yes", "--record", record)
		cmd.Env = append(cmd.Environ(), environment(s)...)
		return cmd
	}
	tombstones := func() int { // what follows the events
		stream, err := js.Stream(t.Context(), "VERSIVE")
		if err != nil {
			t.Fatal(err)
		}
		return int(stream.CachedInfo().State.LastSeq) - *eraseEvents
	}
	started, kills := time.Now(), 0
	for before := 0; before < len(erased)/2; kills++ {
		cmd := command()
		startProcess(t, cmd)
		target := before + 1 + rand.IntN(len(erased)/5)
		for before < target {
			last := before
			embeddedtest.Await(t, "more are erased", func() bool { before = tombstones(); return before > last })
		}
		kill(cmd)
	}
	t.Logf("after %d kills in %v, there are %d tombstones of %d events", kills, time.Since(started).Round(time.Second), tombstones(), len(erased))
	for i := range 2 {
		started = time.Now()
		cmd := command()
		out, err := cmd.CombinedOutput()
		if err != nil || i == 0 != bytes.Contains(out, []byte("\nverified: nothing of it is in the block files")) && i == 0 {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("completed in %v, with %d MiB", time.Since(started).Round(time.Millisecond), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10)
	}

	kept := 0
	for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		subject, err := schema.ParseSubject(m.Subject)
		if err != nil {
			t.Fatal(err)
		}
		if m.Erased() != erased[subject.InterviewID] {
			t.Errorf("%s: erased %v", m.Subject, m.Erased())
		}
		if !m.Erased() {
			kept++
		}
	}
	if kept != *eraseEvents-len(erased) {
		t.Errorf("%d are left", kept)
	}
	// The markers: the ids stand in tombstones, the body's title has them with the study.
	for _, file := range blockFilesOf(t, s.DataDir) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range bytes.Split(text, []byte(`"id":"`))[1:] {
			if id, _, _ := bytes.Cut(part[:min(len(part), 300)], []byte{'"'}); erased[string(id)] {
				t.Fatalf("%s is in %s", id, file)
			}
		}
	}

	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	recorded, pending := make(map[string]int), make(map[string]bool)
	for line := range bytes.Lines(text) {
		var entry struct {
			Interview          string
			Events, Left       int
			ErasedBefore       int `json:"erased_before"`
			Complete, Verified bool
			Quarantined        int
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if !entry.Complete { // before the erasure, which may have been killed
			pending[entry.Interview] = true
			continue
		}
		if recorded[entry.Interview]++; entry.Events+entry.ErasedBefore < 1 || entry.Events+entry.ErasedBefore > 2 || entry.Left > 0 || !entry.Verified {
			t.Errorf("recorded: %s", line)
		}
	}
	if len(recorded) != len(erased) || len(pending) != len(erased) {
		t.Errorf("recorded: %d, and before their erasure %d, of %d", len(recorded), len(pending), len(erased))
	}
}

// blockFilesOf returns the block files below a data directory.
func blockFilesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatal(errors.Join(err, errors.New("no block files")))
	}
	return files
}
