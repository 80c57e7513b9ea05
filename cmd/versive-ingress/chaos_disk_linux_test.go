package main

import (
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

func init() {
	faults = append(faults,
		fault{"disk-power-cut", false, cutPower},
		fault{"disk-eio-write", false, failDiskWrites},
		fault{"disk-eio-fsync", false, failDiskSyncs},
		fault{"disk-full", false, fillDisk},
	)
}

// A diskRound is a round whose ingress has its data on a fault disk, with a
// file system that the seed chooses.
type diskRound struct {
	*round
	disk      *faultdisk.Disk
	settings  config.Settings
	ingress   *process // the last one that was started
	consumers *roundConsumers
}

func (r *round) onDisk(s *storm) *diskRound {
	r.Helper()
	d := r.newDisk()
	d.load(s)
	return d
}

// load starts the ingress, begins the storm, and creates the durable
// consumers, of which one has acknowledged something before it returns.
func (d *diskRound) load(s *storm) {
	d.Helper()
	d.mustStart()
	s.alone = true
	d.begin(s, d.settings)
	d.storm.awaitAccepted(d, 20)
	d.consumers = d.consume()
	// The broker writes down what was acknowledged some time later, or at its end.
	d.stop()
	d.mustStart()
}

func (r *round) newDisk() *diskRound {
	r.Helper()
	d := &diskRound{round: r, settings: r.settings()}
	d.disk = faultdisk.New(r, faultdisk.Kinds[r.random.IntN(len(faultdisk.Kinds))])
	d.settings.DataDir = d.disk.Dir + "/data"
	return d
}

// A process is an ingress whose end is awaited.
type process struct {
	*exec.Cmd
	log   *embeddedtest.Log
	ended chan struct{}
}

// execute starts the program with the settings of the ingress.
func (d *diskRound) execute(args ...string) *process {
	d.Helper()
	p := &process{exec.Command("versive-ingress", args...), &embeddedtest.Log{}, make(chan struct{})}
	p.Stdout, p.Stderr = p.log, p.log
	p.Env = append(p.Environ(), environment(d.settings)...)
	if err := p.Start(); err != nil {
		d.Fatal(err)
	}
	go func() {
		_ = p.Wait() // ProcessState has the outcome
		close(p.ended)
	}()
	d.Cleanup(func() {
		p.kill()
		if strings.Contains(p.log.String(), "stream has lost messages") {
			d.Errorf("%v reports a loss, and nothing is lost", args)
		}
		if d.Failed() {
			d.Logf("the end of the output of %v:\n%s", args, p.report())
		}
	})
	return p
}

// report returns the end of the output, without a line for each webhook.
func (p *process) report() string {
	var text strings.Builder
	for line := range strings.Lines(p.log.String()) {
		if !strings.Contains(line, `"msg":"webhook"`) {
			text.WriteString(line)
		}
	}
	return text.String()[max(0, text.Len()-4<<10):]
}

// kill kills the process if it runs, and waits until it has ended.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) awaitEnd(d *diskRound) {
	d.Helper()
	select {
	case <-p.ended:
	case <-time.After(embeddedtest.Timeout):
		d.Fatalf("%v has not ended within %v", p.Args, embeddedtest.Timeout)
	}
}

// start starts the ingress, and reports whether it takes webhooks. It may end
// instead, or run and not get ready for a while.
func (d *diskRound) start() bool {
	d.Helper()
	d.ingress = d.execute("serve")
	return d.becomesReady(embeddedtest.Timeout / 2)
}

// becomesReady waits until the ingress is ready, or has ended, or has not been
// ready for so long that it must be taken for down.
func (d *diskRound) becomesReady(within time.Duration) bool {
	for deadline := time.Now().Add(within); !d.ingress.hasEnded() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if readyz(d.settings) == http.StatusOK {
			return true
		}
	}
	return false
}

func (d *diskRound) mustStart() {
	d.Helper()
	if !d.start() {
		d.Fatalf("the ingress does not take webhooks:\n%s", d.ingress.report())
	}
}

// stop ends the ingress as a supervisor does.
func (d *diskRound) stop() {
	d.Helper()
	_ = d.ingress.Process.Signal(syscall.SIGTERM)
	d.ingress.awaitEnd(d)
}

// cut is a power cut, after which the disk is mounted again. Some of what was
// not flushed may survive, if that makes a difference.
func (d *diskRound) cut() {
	d.Helper()
	// From here on it answers no request, and every request to the disk that it has
	// begun may yet be finished or not.
	_ = d.ingress.Process.Signal(syscall.SIGSTOP)
	if d.random.IntN(2) == 0 {
		d.disk.Cut(nil)
	} else {
		d.disk.Cut(d.random)
	}
	d.ingress.kill()
	d.disk.Remount()
}

// finish settles the storm and checks what is stored, by the answers and by
// the consumers.
func (d *diskRound) finish() {
	d.Helper()
	d.settle()
	d.check(d.dialEmbedded(d.settings), d.settings.Stream)
	d.consumers.check(d)
}

// cutPower cuts the power under load.
func cutPower(r *round) {
	d := r.onDisk(&storm{senders: 24, think: 5 * time.Millisecond})
	d.times(12, func() {
		d.pause(0, 300*time.Millisecond)
		d.cut()
		d.mustStart()
	})
	d.finish()
}

// fillDisk takes the space of the disk under load. While there is none, the ingress
// may end, by itself or not. It accepts webhooks when there is space again.
func fillDisk(r *round) {
	d := r.onDisk(&storm{senders: 24, think: 5 * time.Millisecond})
	d.times(6, func() {
		d.disk.Fill(d.random.Int64N(4 << 20))
		d.storm.awaitRefused(d)
		d.pause(0, 2*time.Second)
		switch d.random.IntN(4) {
		case 0:
			d.stop()
		case 1:
			d.ingress.kill()
		case 2:
			d.cut()
		}
		if d.ingress.hasEnded() && d.random.IntN(2) == 0 {
			d.ingress = d.execute("serve")
			if !d.becomesReady(time.Second) {
				d.requireReason()
			}
		}
		d.disk.Free()
		if d.ingress.hasEnded() {
			d.mustStart()
		} else if !d.becomesReady(embeddedtest.Timeout) {
			d.Fatalf("the disk has space again, and the ingress does not take webhooks:\n%s", d.ingress.report())
		}
	})
	d.finish()
}

func failDiskWrites(r *round) {
	r.failDisk((*faultdisk.Disk).FailWrites, (*faultdisk.Disk).FailedWrites, func() faultdisk.When {
		if r.random.IntN(2) == 0 { // the events' own, which leaves the file system well
			return faultdisk.Holding([]byte(`"transcript"`), faultdisk.Every(1+r.random.IntN(3)))
		}
		return faultdisk.Every(1 + r.random.IntN(30))
	})
}

func failDiskSyncs(r *round) {
	r.failDisk((*faultdisk.Disk).FailSyncs, (*faultdisk.Disk).FailedSyncs, func() faultdisk.When {
		return faultdisk.Every(1 + r.random.IntN(30))
	})
}

// failDisk makes some requests to the disk fail under load. If the file system
// survives that, the ingress may go on by itself. Then it stops in order or by
// a power cut, and what the disk has must be all that was answered 2xx.
func (r *round) failDisk(set func(*faultdisk.Disk, faultdisk.When), failed func(*faultdisk.Disk) int, when func() faultdisk.When) {
	storm := &storm{senders: 24}
	if r.random.IntN(2) == 0 {
		storm.think = 5 * time.Millisecond // so that not all is stored in batches
	}
	d := r.onDisk(storm)
	for range d.few(6) {
		d.storm.awaitAccepted(d, 1+d.random.IntN(60))
		set(d.disk, when())
		embeddedtest.Await(d, "a request to the disk failed", func() bool { return failed(d.disk) > 0 })
		d.pause(0, 500*time.Millisecond)
		d.staged += failed(d.disk)
		set(d.disk, nil)

		// A file system that has failed takes no writes until it is mounted again.
		if !d.disk.Works() || !d.becomesReady(10*time.Second) {
			d.requireReason()
		} else {
			more := d.storm.countAccepted() + 1 + d.random.IntN(100)
			for began := time.Now(); d.storm.countAccepted() < more && !d.ingress.hasEnded() && time.Since(began) < 10*time.Second; {
				time.Sleep(5 * time.Millisecond)
			}
		}
		if d.random.IntN(2) == 0 {
			d.stop()
			d.disk.Remount()
		} else {
			d.cut()
		}
		if !d.start() {
			d.isDown()
			return
		}
	}
	d.finish()
}

// isDown ends a round whose ingress does not take webhooks any more.
func (d *diskRound) isDown() {
	d.Helper()
	d.storm.giveUp()
	d.storm.down++
	d.requireReason()
}

// requireReason checks that an ingress which does not take webhooks reports why.
func (d *diskRound) requireReason() {
	d.Helper()
	if d.ingress.hasEnded() {
		if code := d.ingress.ProcessState.ExitCode(); code != 1 {
			d.Errorf("the ingress ended with status %d, want 1", code)
		}
		d.Logf("the ingress has ended:\n%s", d.ingress.report())
		return
	}
	switch status, text := get("http://" + d.settings.AdminListen + "/readyz"); {
	case status == http.StatusServiceUnavailable && text != "":
		d.Logf("the ingress is not ready: %s", text)
	case status != http.StatusOK: // just now
		d.Errorf("the ingress is not ready, and does not report why: %d %q", status, text)
	}
}
