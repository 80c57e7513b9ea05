package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A power cut has undone an erasure in the block files. Erase, run again, finds
// that, and the ingress overwrites the content when it is restarted.
func TestEraseAgain(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	sys.post(t, "msg_1", plantedBody("interview.completed", "int-1"))
	sys.post(t, "msg_cut", plantedBody("interview.completed", "int-1")[:300])
	sys.post(t, "msg_2", interview("int-2"))
	giveUp(t, sys, "msg_1")

	// The server goes on writing to these files until it renames the new ones. A
	// power cut leaves them in place if the directory was not synced.
	blocks, err := filepath.Glob(filepath.Join(s.DataDir, "jetstream", "$G", "streams", "*", "msgs", "1.blk"))
	if err != nil || len(blocks) != 3 {
		t.Fatal(blocks, err)
	}
	for _, block := range blocks {
		if err := os.Link(block, block+".old"); err != nil {
			t.Fatal(err)
		}
	}
	if out := must(t, s, "erase", "--interview", "int-1", "--yes"); !strings.Contains(out, "\nerased: 3\nverified: ") {
		t.Errorf("got %s", out)
	}
	sys.Stop()
	for _, block := range blocks {
		if err := os.Rename(block+".old", block); err != nil {
			t.Fatal(err)
		}
	}

	sys = run(t, s)
	out, err := runCommand(t, "versive-ingress", s, "erase", "--interview", "int-1", "--yes")
	if err == nil || !strings.Contains(out, "the content of 3 deleted messages is in block files: ") || !strings.Contains(out, "restart the ingress") {
		t.Errorf("got %v\n%s", err, out)
	}
	if files := filesWith(t, s.DataDir, planted); len(files) != 3 {
		t.Errorf("the marker is in %v", files)
	}
	sys.Stop()
	sys = run(t, s)
	if out := must(t, s, "erase", "--interview", "int-1"); !strings.Contains(out, "(erased before: 1 event)\nverified: ") {
		t.Errorf("got %s", out)
	}
	if files := filesWith(t, s.DataDir, planted); len(files) > 0 {
		t.Errorf("the marker is in %v", files)
	}
	for id, body := range map[string][]byte{"msg_1": plantedBody("interview.completed", "int-1"), "msg_2": interview("int-2")} {
		if a := sys.post(t, id, body); a.Outcome != "duplicate" {
			t.Errorf("a resend of %s: %v", id, a)
		}
	}
}

// The ingress and erase are killed during an erasure. Erase, run again, completes
// it, if need be after a restart of the ingress.
func TestEraseKilled(t *testing.T) {
	t.Parallel()
	for _, erased := range []int{0, 7, 16} {
		t.Run(fmt.Sprintf("after %d of 20", erased), func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			sys := &system{settings: s, url: s.WebhookURL()}
			process, _ := launch(t, "versive-ingress", s)
			awaitReady(t, s)
			others := make(map[string]uint64)
			for i := range 10 {
				sys.post(t, fmt.Sprint("msg_", i), plantedBody("interview.completed", "int-1"))
				sys.post(t, fmt.Sprint("msg_cut_", i), plantedBody("interview.completed", "int-1")[:300])
				id := fmt.Sprint("msg_other_", i)
				others[id] = sys.post(t, id, interview(id)).Sequence
			}
			js := embeddedtest.Connect(t, broker.URL(s))
			first := exec.Command("versive-ingress", "erase", "--interview", "int-1", "--yes")
			first.Env = append(first.Environ(), environment(s)...)
			startProcess(t, first)
			embeddedtest.Await(t, "the erasure is under way", func() bool {
				return strings.Count(holdings(t, js, schema.KindEvent)+holdings(t, js, schema.KindQuarantine), "*") >= erased
			})
			kill(process)
			kill(first)
			process, _ = launch(t, "versive-ingress", s)
			awaitReady(t, s)
			if out, err := runCommand(t, "versive-ingress", s, "erase", "--interview", "int-1", "--yes"); err != nil {
				if !strings.Contains(out, "restart the ingress") {
					t.Error(out)
				}
				terminate(t, process)
				process, _ = launch(t, "versive-ingress", s)
				awaitReady(t, s)
				must(t, s, "erase", "--interview", "int-1", "--yes")
			}
			if files := filesWith(t, s.DataDir, planted); len(files) > 0 {
				t.Errorf("the marker is in %v", files)
			}
			for id, sequence := range others {
				if a := sys.post(t, id, interview(id)); a.Outcome != "duplicate" || a.Sequence != sequence {
					t.Errorf("%s is not where it was: %v", id, a)
				}
			}
			terminate(t, process)
		})
	}
}

// A consumer gives up on an erasure. The dead letter of that is a tombstone on
// the subject of another one, which is not taken for erased.
func TestEraseKeepsTombstones(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	sys.post(t, "msg_1", interview("int-1"))
	giveUp(t, sys, "msg_1")
	must(t, s, "erase", "--interview", "int-1", "--yes")
	consumeUntil(t, sys, 2, func(schema.Event) error { return nil }, subscribe.ErrPermanent)
	for range 2 {
		if out := must(t, s, "erase", "--interview", "int-1"); !strings.Contains(out, "\nverified: ") {
			t.Errorf("got %s", out)
		}
		sys.Stop()
		sys = run(t, s)
	}
	js := embeddedtest.Connect(t, sys.BrokerURL())
	if got := holdings(t, js, schema.KindEvent) + ", " + holdings(t, js, schema.KindDead); got != "msg_1*, msg_1* msg_1*" {
		t.Errorf("the streams hold %s", got)
	}
}

// Where an erasure cannot be verified it succeeds, and its output reports what
// is not guaranteed.
func TestEraseCaveats(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`jetstream { key: "a key" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		place func(*testing.T, config.Settings) config.Settings
		want  string
	}{
		"encrypted": {
			func(_ *testing.T, s config.Settings) config.Settings { s.NATSConfig = file; return s },
			"not overwritten: stream VERSIVE is encrypted",
		},
		"external": {
			func(t *testing.T, s config.Settings) config.Settings {
				broker := embeddedtest.StartBroker(t, embedded.Config{Listen: s.NATSListen})
				return withBroker(s, strings.TrimPrefix(broker.URL(), "nats://"))
			},
			"not verified: erase can only look into the files of an embedded broker's stream",
		},
		"another directory": {
			func(t *testing.T, s config.Settings) config.Settings { return s },
			"not verified: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.place(t, newSettings(t))
			sys := run(t, s)
			sys.post(t, "msg_1", interview("int-1"))
			if name == "another directory" { // of another ingress
				other := newSettings(t)
				run(t, other)
				s.DataDir = other.DataDir
			}
			out := must(t, s, "erase", "--interview", "int-1", "--yes")
			if !strings.Contains(out, "\nerased: 1\n"+test.want) || strings.Contains(out, "\nverified") {
				t.Errorf("got %s", out)
			}
		})
	}
}
