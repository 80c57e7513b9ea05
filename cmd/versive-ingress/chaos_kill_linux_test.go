package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

func init() {
	faults = append(faults,
		fault{"disk-kill-start", false, killStart},
		fault{"disk-kill-stop", false, killStop},
		fault{"disk-kill-erase", false, killErase},
		fault{"disk-kill-requeue", false, killRequeue},
	)
}

// stride is how many seeds cover every step.
const stride = 5

// steps stages an operation again and again and kills a process at step n of
// it, where n is one of every stride-th step, which the seed chooses. It ends
// after the operation was done before step n, or in the short form after one.
// The operation reports whether the process was killed. A step ends when the
// disk is asked to flush.
func (d *diskRound) steps(operation func(n int) (killed bool)) {
	if !d.long {
		operation(1 + d.random.IntN(4*stride))
		d.staged++
		return
	}
	for n := 1 + int(d.seed-1)%stride; operation(n); n += stride {
		d.staged++
	}
}

// killAt kills a process in the nth flush from now, in which case the power may
// be cut as well, or soon after it. The returned function lifts that, and reports whether the process was
// killed; then it has ended, and the disk is mounted.
func (d *diskRound) killAt(n int, p *process) (lift func() (killed bool)) {
	cut, delay, happened := d.random.IntN(2) == 0, time.Duration(0), false
	if !cut {
		delay = max(0, time.Duration(d.random.Int64N(int64(4*time.Millisecond)))-2*time.Millisecond)
	}
	d.disk.FailSyncs(func(i int, _ []byte) bool {
		if i == n {
			happened = true
			if delay == 0 {
				_ = p.Process.Kill()
			} else {
				time.AfterFunc(delay, func() { _ = p.Process.Kill() })
			}
		}
		return i >= n && cut
	})
	return func() bool {
		d.Helper()
		d.disk.FailSyncs(nil) // and happened does not change any more
		if happened {
			p.awaitEnd(d)
		}
		if happened && cut {
			d.cut()
		}
		return happened
	}
}

// killStart kills the ingress while it starts: on an empty disk, and on one
// that has streams, which the start changes, for it has other settings.
func killStart(r *round) {
	d := r.newDisk()
	d.steps(func(n int) bool {
		if err := os.RemoveAll(d.settings.DataDir); err != nil {
			d.Fatal(err)
		}
		killed := d.killStarting(n)
		d.ingress.kill()
		return killed
	})
	d.load(&storm{think: 5 * time.Millisecond})
	d.steps(func(n int) bool {
		d.storm.awaitAccepted(d, 1+d.random.IntN(20))
		if d.random.IntN(2) == 0 {
			d.stop()
		} else {
			d.ingress.kill()
		}
		d.settings.DedupeWindow += time.Hour
		return d.killStarting(n)
	})
	d.finish()
}

// killStarting starts the ingress and kills it at step n, then starts it again.
func (d *diskRound) killStarting(n int) (killed bool) {
	d.Helper()
	d.ingress = d.execute("serve")
	lift := d.killAt(n, d.ingress)
	ready := d.becomesReady(embeddedtest.Timeout)
	if killed = lift(); killed {
		d.mustStart()
	} else if !ready {
		d.Fatalf("the ingress does not start:\n%s", d.ingress.report())
	}
	return killed
}

// killStop kills the ingress while it stops under load.
func killStop(r *round) {
	d := r.onDisk(&storm{senders: 24, think: 5 * time.Millisecond})
	d.steps(func(n int) bool {
		d.storm.awaitAccepted(d, 1+d.random.IntN(20))
		lift := d.killAt(n, d.ingress)
		d.stop()
		killed := lift()
		d.mustStart()
		return killed
	})
	d.finish()
}

// killCommand runs a command, and kills it or the ingress at step n. Then it
// runs the command again until it succeeds, and does what that asks for.
func (d *diskRound) killCommand(n int, args ...string) (killed bool) {
	d.Helper()
	command := d.execute(args...)
	target := command
	if d.random.IntN(2) == 0 {
		target = d.ingress
	}
	lift := d.killAt(n, target)
	embeddedtest.Await(d, "the command or the ingress has ended", func() bool { return command.hasEnded() || d.ingress.hasEnded() })
	if killed = lift(); d.ingress.hasEnded() {
		d.mustStart()
	}
	if killed && d.random.IntN(4) > 0 {
		command.kill() // rather than let it wait for answers that do not come
	}
	command.awaitEnd(d)
	for left := 3; command.ProcessState.ExitCode() != 0; left-- {
		if left == 0 || !killed {
			d.Fatalf("%v ended with %v:\n%s", args, command.ProcessState, command.log)
		}
		if strings.Contains(command.log.String(), "restart the ingress") {
			d.stop()
			d.mustStart()
		}
		command = d.execute(args...)
		command.awaitEnd(d)
	}
	return killed
}

// killErase kills the erasure of an interview, or the ingress meanwhile. What
// the command reports as erased must stay so after power cuts.
func killErase(r *round) {
	d := r.onDisk(&storm{senders: 4, erases: true})
	d.settle() // so that the steps are those of the erasure
	d.steps(func(n int) bool {
		id, marker := fmt.Sprintf("erased-%d", n), fmt.Sprintf("MARKER-%016x", d.random.Uint64())
		d.plant(id, marker)
		killed := d.killCommand(n, "erase", "--interview", id, "--yes")
		d.requireErased(marker)
		if out := d.run("erase", "--interview", id, "--yes"); !strings.Contains(out, "nothing is stored") {
			d.Errorf("erased again:\n%s", out)
		}
		d.requireErased(marker)
		return killed
	})
	d.finish()
}

// plant sends webhooks that hold a marker and are of an interview, and others
// after them.
func (d *diskRound) plant(interviewID, marker string) {
	d.Helper()
	send := func(a attempt, body []byte) {
		a.answer = d.storm.post(signed(d.storm.urls[0], d.storm.secret, a.id, body))
		if !a.answer.Accepted() {
			d.Fatalf("%s was answered %v", a.id, a.answer)
		}
		if a.kind == understood {
			d.storm.note(a)
		}
	}
	for name, eventType := range map[string]string{"1": "interview.completed", "2": "interview.completed", "3": "interview.imagined"} {
		body := bytes.ReplaceAll(plantedBody(eventType, interviewID), []byte(planted), []byte(marker))
		send(attempt{id: "msg_" + interviewID + "_" + name, kind: unknown}, body)
		kept := "msg_kept_" + interviewID + "_" + name
		send(attempt{id: kept, kind: understood}, interview(kept))
	}
	if len(filesWith(d, d.settings.DataDir, marker)) == 0 {
		d.Fatal("the marker is in no file to begin with")
	}
}

// requireErased cuts the power soon, and checks that no file holds the marker
// then, before the ingress starts again.
func (d *diskRound) requireErased(marker string) {
	d.Helper()
	if d.long {
		d.pause(0, 4*time.Second)
	} else {
		d.pause(0, 100*time.Millisecond)
	}
	d.cut()
	if files := filesWith(d, d.settings.DataDir, marker); len(files) > 0 {
		d.storm.erasedBack++
		d.Errorf("the erased content is back in %v", files)
	}
	d.mustStart()
}

// run runs a command, which must succeed, and returns its output.
func (d *diskRound) run(args ...string) string {
	d.Helper()
	p := d.execute(args...)
	p.awaitEnd(d)
	if !p.ProcessState.Success() {
		d.Errorf("%v ended with %v:\n%s", args, p.ProcessState, p.log)
	}
	return p.log.String()
}

// killRequeue kills a requeue from the quarantine, or the ingress meanwhile.
func killRequeue(r *round) {
	d := r.onDisk(&storm{senders: 4})
	d.settle()
	js := d.dialEmbedded(d.settings)
	requeue := []string{"quarantine", "requeue", "--all", "--reason", string(schema.Invalid)}
	d.steps(func(n int) bool {
		for i := range 3 { // as an older version would have kept them
			id := fmt.Sprintf("msg_requeued_%d_%d", n, i)
			m := schema.Quarantine(id, interview(id), &schema.Error{Reason: schema.Invalid}, nil)
			msg := nats.NewMsg(m.Subject(d.settings.Subject))
			msg.Header, msg.Data = m.Header, m.Data
			embeddedtest.Await(d, id+" is in the quarantine", func() bool {
				_, err := js.PublishMsg(d.Context(), msg, jetstream.WithMsgID(id))
				return err == nil
			})
			d.storm.note(attempt{id: id, kind: understood, answer: sender.Answer{Status: 200}})
		}
		killed := d.killCommand(n, requeue...)
		if out := d.run(requeue...); !strings.Contains(out, "there is nothing to requeue") {
			d.Errorf("requeued again:\n%s", out)
		}
		return killed
	})
	d.finish()
}
