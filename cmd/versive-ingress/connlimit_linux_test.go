package main

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"versive-ingress/publish/embedded/embeddedtest"
)

// Connections do not use up the files that the process may open: the embedded
// broker needs some.
func TestConnLimitFollowsOpenFiles(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.LogLevel = slog.LevelDebug
	log := &embeddedtest.Log{}
	cmd := exec.Command("sh", "-c", "ulimit -n 512 && exec versive-ingress serve")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), environment(s)...)
	startProcess(t, cmd)
	awaitReady(t, s)
	for range 600 {
		conn, err := net.Dial("tcp", s.Listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	// Accepted after all of them.
	response, err := http.Get("http://" + s.Listen + s.Path)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if strings.Contains(log.String(), "too many open files") {
		t.Error("the connections have used up the files")
	}
	if !strings.Contains(log.String(), "limit of open files is low") {
		t.Error("the log has no warning")
	}
}
