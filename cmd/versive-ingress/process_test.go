package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// launch starts a program of the ingress as a process; see awaitReady. With the race
// detector, the test is skipped.
func launch(t testing.TB, program string, s config.Settings) (*exec.Cmd, *embeddedtest.Log) {
	t.Helper()
	skipProcesses(t)
	log := &embeddedtest.Log{}
	cmd := exec.Command(program, "serve")
	cmd.Stdout, cmd.Stderr = log, log // traces, by the console exporter, and the log
	cmd.Env = append(cmd.Environ(), environment(s)...)
	startProcess(t, cmd)
	return cmd, log
}

// skipProcesses skips a test that runs the ingress, or a consumer, as a process if the race
// detector is on. A race would only be in the log of the process, and starting one takes
// several times as long.
func skipProcesses(t testing.TB) {
	t.Helper()
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("NOT CHECKED with the race detector: what runs as a process")
	}
}

// environment returns the settings as a process gets them. What is zero is
// left out.
func environment(s config.Settings) (env []string) {
	value := reflect.ValueOf(s)
	for _, f := range reflect.VisibleFields(value.Type()) {
		text := fmt.Sprint(value.FieldByIndex(f.Index).Interface())
		if list, ok := value.FieldByIndex(f.Index).Interface().([]string); ok {
			text = strings.Join(list, ",")
		}
		if !value.FieldByIndex(f.Index).IsZero() {
			env = append(env, f.Tag.Get("env")+"="+text)
		}
	}
	return env
}

// launchBroker starts a NATS server with JetStream as a process of its own and
// waits until it takes connections. It ends with the test's process, however
// that ends.
func launchBroker(t testing.TB, c embedded.Config) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("broker", c.Dir, c.Listen, c.ConfigFile)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	startProcess(t, cmd)
	embeddedtest.Await(t, "a broker at "+c.Listen, func() bool {
		nc, err := nats.Connect("nats://" + c.Listen)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return cmd
}

// brokerMain is the process of launchBroker.
func brokerMain() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // until the pipe is closed
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	broker, err := embedded.Start(ctx, embedded.Config{Dir: os.Args[1], Listen: os.Args[2], ConfigFile: os.Args[3], MaxPayload: 9 << 20})
	if err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
	<-ctx.Done()
	broker.Stop()
}

// startProcess starts a process that is killed when the test ends.
func startProcess(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
}

// kill ends a process as nothing else does: without a chance to clean up.
func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// terminate ends a process as a supervisor does.
func terminate(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s ended with %v", cmd.Path, err)
	}
}

// freeze stops a process, and everything that has to do with it waits, until
// the returned function is called.
func freeze(t testing.TB, cmd *exec.Cmd) (thaw func()) {
	t.Helper()
	send := func(s syscall.Signal) {
		if err := cmd.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	send(syscall.SIGSTOP)
	return func() { send(syscall.SIGCONT) }
}
