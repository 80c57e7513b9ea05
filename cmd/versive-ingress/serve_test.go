package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

func awaitReady(t testing.TB, s config.Settings) {
	t.Helper()
	embeddedtest.Await(t, "ready", func() bool { return readyz(s) == http.StatusOK })
}

// However the process ends under load, nothing that was accepted is lost, and
// what is sent again afterwards is not stored again.
func TestEndUnderLoad(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			cmd, log := launch(t, "versive-ingress", s)
			awaitReady(t, s)
			l := startLoad(t, s, 8, 0)
			l.awaitAccepted(t, 100)
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil && signal != syscall.SIGKILL {
				t.Errorf("the process ended with %v\n%s", err, log)
			}

			launch(t, "versive-ingress", s)
			l.awaitAccepted(t, 50) // the senders have not stopped
			l.stop()
			l.check(t)
			requireStored(t, embeddedtest.Connect(t, "nats://"+s.NATSListen), s.Stream, l.accepted)
		})
	}
}

// The duplicate window is short and over; the subject still identifies a duplicate.
func TestDuplicateBeyondTheWindow(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.DedupeWindow = time.Second
	sys := run(t, s)
	first := sys.post(t, "msg_1", sample)
	sys.Stop()
	forgotten := time.Now().Add(3 * time.Second)

	sys = run(t, s)
	time.Sleep(time.Until(forgotten))
	second := sys.post(t, "msg_1", sample)
	if first.Outcome != "stored" || second.Outcome != "duplicate" || second.Sequence != first.Sequence {
		t.Errorf("got %v, then %v", first, second)
	}
	js := embeddedtest.Connect(t, sys.BrokerURL())
	requireStored(t, js, s.Stream, map[string]uint64{"msg_1": first.Sequence})
	stream, err := js.Stream(t.Context(), s.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.Duplicates; got != s.DedupeWindow {
		t.Errorf("the stream's window is %v", got)
	}
}

// A signal while the broker is awaited is an ordinary end.
func TestEndBeforeTheBrokerIsThere(t *testing.T) {
	t.Parallel()
	s := withBroker(newSettings(t), embeddedtest.FreeAddress(t))
	cmd, log := launch(t, "versive-ingress", s)
	embeddedtest.Await(t, "alive", func() bool {
		status, _ := get("http://" + s.AdminListen + "/livez")
		return status == http.StatusOK
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, log)
	}
}

// SIGHUP reloads files, and does no harm where there are none.
func TestHangup(t *testing.T) {
	t.Parallel()
	for _, text := range []string{config.NewSecret(), ""} {
		s := newSettings(t)
		loaded := 0
		if text != "" {
			s.SecretsFile, loaded = writeFile(t, "secrets", text), 2 // at the start, and for the signal
		}
		cmd, log := launch(t, "versive-ingress", s)
		awaitReady(t, s)
		embeddedtest.Await(t, "files are reloaded", func() bool { // the signal is ignored if it is early
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(log.String(), "SIGHUP") && strings.Count(log.String(), "files are in use") >= loaded
		})
		if status := readyz(s); status != http.StatusOK {
			t.Errorf("after SIGHUP: %d", status)
		}
	}
}
