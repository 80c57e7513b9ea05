package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

// launchOnPipe starts an ingress that logs to writer.
func launchOnPipe(t *testing.T, s config.Settings, writer *os.File, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("versive-ingress", append([]string{"serve"}, flags...)...)
	cmd.Stderr = writer
	cmd.Env = append(cmd.Environ(), environment(s)...)
	startProcess(t, cmd)
	return cmd
}

func newPipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return reader, writer
}

// A reader of the log that does not read holds up neither webhooks nor the end.
func TestLogIsNotRead(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	reader, writer := newPipe(t)
	cmd := launchOnPipe(t, s, writer)
	awaitReady(t, s)
	sys := &system{settings: s, url: s.WebhookURL()}
	for i := range 1000 { // each is logged, and a pipe takes some 300 lines
		if a := sys.post(t, fmt.Sprint("msg_", i), sample); a.Outcome != "stored" {
			t.Fatalf("webhook %d: %v", i, a)
		}
	}
	terminate(t, cmd)
	text := make([]byte, 1<<10)
	if n, err := reader.Read(text); err != nil || !strings.HasPrefix(string(text[:n]), `{"time":`) {
		t.Errorf("the log begins with %q (%v)", text[:n], err)
	}
}

// A reader of the log that ends does not end the ingress.
func TestLogReaderEnds(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	reader, writer := newPipe(t)
	cmd := launchOnPipe(t, s, writer)
	writer.Close()
	awaitReady(t, s)
	reader.Close()
	sys := &system{settings: s, url: s.WebhookURL()}
	if a := sys.post(t, "msg_1", sample); a.Outcome != "stored" {
		t.Errorf("got %v", a)
	}
	embeddedtest.Await(t, "a line is dropped", func() bool {
		lines := sys.metric("versive_ingress_log_lines_dropped_total")
		return lines != "" && !strings.HasSuffix(lines, " 0\n")
	})
	terminate(t, cmd)
}

// A failed start ends the process even if its error cannot be written.
func TestErrorIsNotRead(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	for name, test := range map[string]struct {
		change func(*config.Settings)
		flags  []string
	}{
		"address in use": {func(s *config.Settings) { s.Listen = taken.Addr().String() }, nil},
		"wrong setting":  {func(s *config.Settings) { s.Path = "no-path" }, nil},
		"wrong flag":     {func(*config.Settings) {}, []string{"--bogus"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			test.change(&s)
			_, writer := newPipe(t)
			err := writer.SetWriteDeadline(time.Now().Add(time.Second))
			for err == nil { // until the pipe is full
				_, err = writer.Write(make([]byte, 4<<10))
			}
			cmd := launchOnPipe(t, s, writer, test.flags...)
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
