package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// Ctrl-C: the checkpoint records exactly what the target has.
func replayInterrupted(t *testing.T, l library) {
	createTarget(t, l.js, jetstream.MemoryStorage, "STOP", "stop.>")
	file := filepath.Join(t.TempDir(), "checkpoint")
	args := []string{"replay", "--to-subject", "stop.>", "--checkpoint", file}
	cmd := command(l.url, append(args, "--rate", "110")...) // slow, so that the end is far, but not so that each is handed over immediately
	var log embeddedtest.Log
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "a part is delivered", func() bool { return len(readAll(t, l.js, "STOP")) > 20 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(log.String(), ": interrupted; to resume: the same command\n") {
		t.Errorf("%v: %s", err, &log)
	}
	got, c := readAll(t, l.js, "STOP"), readState(file)
	if n := c.Done.Events + c.Done.Erasures; n != uint64(len(got)) || n == uint64(len(l.stored)) || c.Finished {
		t.Errorf("the target has %d, the checkpoint says %+v", len(got), c)
	}
	succeed(t, command(l.url, args...))
	requireAll(t, ids(l.stored), ids(readAll(t, l.js, "STOP")), 0)
	if c := readState(file); c.Done.Events != 398 || c.Done.Erasures != 2 || c.Done.Duplicates != 0 || !c.Finished {
		t.Errorf("the checkpoint says %+v", c)
	}
}

// killed starts a replay, kills it with signal 9 once its checkpoint records
// a part, and runs it again. got returns how many events the target has.
func killed(t *testing.T, l library, out io.Writer, got func() int, args ...string) (before int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "checkpoint")
	args = append([]string{"replay", "--checkpoint", file}, args...)
	cmd := command(l.url, append(args, "--rate", "110")...) // slow, so that the end is far, but not so that each is handed over immediately
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "a part is done, and more", func() bool {
		done := readState(file).Done
		before = got()
		return done.Sequence > 0 && before > int(done.Events+done.Erasures)
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if c := readState(file); c.Finished || int(c.Done.Events) > got() {
		t.Fatalf("the target has %d, the checkpoint says %+v", got(), c)
	}
	cmd = command(l.url, args...)
	cmd.Stdout = out
	_, log := succeed(t, cmd)
	if !strings.Contains(log, "replayed 398 events and 2 erasures, ") {
		t.Error(log)
	}
	return before
}

func replayKilledLines(t *testing.T, l library) {
	file := filepath.Join(t.TempDir(), "events")
	out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	killed(t, l, out, func() int { return len(lineIDs(t, file)) }, "--quiet=false")
	requireAll(t, ids(l.stored), lineIDs(t, file), 300)
}

func replayKilledStream(t *testing.T, l library) {
	createTarget(t, l.js, jetstream.MemoryStorage, "KILLED", "killed.>")
	killed(t, l, nil, func() int { return len(readAll(t, l.js, "KILLED")) }, "--to-subject", "killed.>")
	requireAll(t, ids(l.stored), ids(readAll(t, l.js, "KILLED")), 0) // the stream knows what is repeated
}

func replayKilledEndpoint(t *testing.T, l library) {
	e := newEndpoint(t, l.stored)
	killed(t, l, nil, func() int { return len(e.ids()) + 2 }, "--to-url", e.URL)
	requireAll(t, ids(l.events), e.ids(), 300)
}

// The broker goes and comes back in the middle: nothing is missing, nothing
// twice, and the order is kept.
func TestReplayAcrossRestart(t *testing.T) {
	t.Parallel()
	config := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, config)
	fill(t, broker.URL(), 1, 500)
	js := embeddedtest.Connect(t, broker.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	createTarget(t, js, jetstream.FileStorage, "AGAIN", "again.>")
	cmd := command(broker.URL(), "replay", "--to-subject", "again.>", "--rate", "1000")
	var log embeddedtest.Log
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	embeddedtest.Await(t, "a part is delivered", func() bool { return len(readAll(t, js, "AGAIN")) > 100 })
	broker.Stop()
	embeddedtest.StartBroker(t, config)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &log)
	}
	embeddedtest.Await(t, "the broker is back", func() bool { return js.Conn().IsConnected() })
	requireAll(t, ids(readAll(t, js, "VERSIVE")), ids(readAll(t, js, "AGAIN")), 0)
}

// A replay that goes on where an earlier one has ended fails for the event that
// the earlier one could not read, however often it is repeated.
func TestReplayGoesOnAfterUnreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := embedded.Config{Dir: dir, Listen: "127.0.0.1:0"}
	broker := embeddedtest.StartBroker(t, config)
	fill(t, broker.URL(), 1, 20)
	js := embeddedtest.Connect(t, broker.URL())
	for i := range 2 { // damage in the last block would be dropped at the start
		m, err := schema.Normalize(fmt.Sprint("msg_large_", i), bytes.ReplaceAll(interview("large"), []byte(`"transcript": "`), fmt.Appendf(nil, `"transcript": "%6000000d`, 0)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
	broker.Stop()
	block := filepath.Join(dir, "jetstream", "$G", "streams", "VERSIVE", "msgs", "1.blk")
	content, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	content[bytes.Index(content, []byte("ce-id: msg_7\r\n"))+7] ^= 1
	if err := os.WriteFile(block, content, 0o600); err != nil {
		t.Fatal(err)
	}
	broker = embeddedtest.StartBroker(t, config)
	for range 2 {
		cmd := command(broker.URL(), "replay", "--checkpoint", filepath.Join(dir, "checkpoint"))
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Run(); err == nil || !strings.Contains(log.String(), "delivered 21 events") || !strings.Contains(log.String(), "cannot return (1, sequences ") {
			t.Errorf("%v: %s", err, &log)
		}
	}
}

// Ctrl-C ends it while the broker is away, too.
func TestReplayEndsWithoutBroker(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: "127.0.0.1:0"})
	fill(t, broker.URL(), 1, 300)
	js := embeddedtest.Connect(t, broker.URL())
	createTarget(t, js, jetstream.FileStorage, "AGAIN", "again.>")
	cmd := command(broker.URL(), "replay", "--to-subject", "again.>", "--rate", "10") // slow, so that the end is far
	var log embeddedtest.Log
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	embeddedtest.Await(t, "a part is delivered", func() bool { return len(readAll(t, js, "AGAIN")) > 5 })
	broker.Stop()
	start := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if took := time.Since(start); err == nil || took > 30*time.Second || !strings.Contains(log.String(), "interrupted; to resume: ") {
		t.Errorf("%v after %v: %s", err, took, &log)
	}
}
