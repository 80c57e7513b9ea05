package main

import (
	"path/filepath"
	"strings"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
	"versive-ingress/schema"
)

// onDisks runs a test on a disk with each kind of file system. The ingress runs
// as a process, with its data on the disk.
func onDisks(t *testing.T, test func(*testing.T, *poweredSystem)) {
	t.Helper()
	t.Parallel()
	for _, kind := range faultdisk.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := &poweredSystem{disk: faultdisk.New(t, kind)}
			s := newSettings(t)
			s.DataDir = filepath.Join(p.disk.Dir, "data")
			p.system = &system{settings: s, url: s.WebhookURL()}
			p.start(t)
			p.post(t, "msg_before", interview("before"))
			p.post(t, "msg_1", plantedBody("interview.completed", "int-1"))
			p.post(t, "msg_cut", plantedBody("interview.completed", "int-1")[:300])
			p.post(t, "msg_after", interview("after"))
			test(t, p)
		})
	}
}

type poweredSystem struct {
	*system
	disk *faultdisk.Disk
	end  func() // of the process, by SIGTERM
	cut  func() // the power, until the process starts again
}

func (p *poweredSystem) start(t *testing.T) {
	t.Helper()
	process, _ := launch(t, "versive-ingress", p.settings)
	awaitReady(t, p.settings)
	p.end = func() { terminate(t, process) }
	p.cut = func() {
		freeze(t, process)
		p.disk.Cut(nil)
		kill(process)
		p.disk.Remount()
	}
}

func (p *poweredSystem) requireHoldings(t *testing.T, events, quarantine string) {
	t.Helper()
	js := embeddedtest.Connect(t, broker.URL(p.settings))
	if got := holdings(t, js, schema.KindEvent); got != events {
		t.Errorf("the event stream holds %s, want %s", got, events)
	}
	if got := holdings(t, js, schema.KindQuarantine); got != quarantine {
		t.Errorf("the quarantine holds %s, want %s", got, quarantine)
	}
}

// After erase has exited 0, a power cut brings nothing back, and takes nothing
// that was acknowledged.
func TestErasePowerCut(t *testing.T) {
	onDisks(t, func(t *testing.T, p *poweredSystem) {
		must(t, p.settings, "erase", "--interview", "int-1", "--yes")
		p.cut()
		if files := filesWith(t, p.settings.DataDir, planted); len(files) > 0 {
			t.Errorf("after the power cut, the marker is in %v", files)
		}
		p.start(t)
		p.requireHoldings(t, "msg_before msg_after msg_1*", "msg_cut*")
		p.end()
	})
}

// A power cut ends an erasure before it has made everything durable. It takes
// nothing that was acknowledged meanwhile, and erase, run again, completes it.
func TestErasePowerCutMeanwhile(t *testing.T) {
	onDisks(t, func(t *testing.T, p *poweredSystem) {
		eraser := publish.Eraser{JetStream: embeddedtest.Connect(t, broker.URL(p.settings)), Stream: "VERSIVE"}
		if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: "versive.interview.completed.study_1.int-1.msg_1", Sequence: 2}); err != nil {
			t.Fatal(err)
		}
		p.post(t, "msg_last", interview("last")) // into the block that was just written anew
		if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindQuarantine, Subject: "versive-quarantine.msg_cut", Sequence: 1}); err != nil {
			t.Fatal(err)
		}
		p.cut()
		p.start(t)
		p.requireHoldings(t, "msg_before msg_after msg_1* msg_last", "msg_cut*")
		out, err := runCommand(t, "versive-ingress", p.settings, "erase", "--interview", "int-1", "--yes")
		if err == nil {
			t.Log("the file system has made the erasure durable by itself")
		} else if !strings.Contains(out, "restart the ingress") {
			t.Errorf("got %v\n%s", err, out)
		}
		p.end()
		p.start(t)
		must(t, p.settings, "erase", "--interview", "int-1", "--yes")
		if files := filesWith(t, p.settings.DataDir, planted); len(files) > 0 {
			t.Errorf("the marker is in %v", files)
		}
		p.requireHoldings(t, "msg_before msg_after msg_1* msg_last", "msg_cut*")
		p.end()
	})
}
