package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded"
)

// At the end, a request that was let in gets its answer, and nobody else is.
func TestShutdownFinishesWhatIsInProgress(t *testing.T) {
	t.Parallel()
	for name, protocol := range map[string]func(*http.Protocols){
		"HTTP1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			sys := run(t, s)
			transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: time.Minute}
			protocol(transport.Protocols)
			defer transport.CloseIdleConnections()

			// The ingress asks for the body when it has checked the headers.
			asked := make(chan struct{})
			rest, body := io.Pipe()
			request := signed(sys.url, s.Secrets[0], "msg_slow", sample)
			request.Body = rest
			request.ContentLength = int64(len(sample))
			request.Header.Set("Expect", "100-continue")
			request = request.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got100Continue: func() { close(asked) },
			}))
			answered := make(chan string, 1)
			go func() {
				response, err := transport.RoundTrip(request)
				if err != nil {
					answered <- err.Error()
					return
				}
				defer response.Body.Close()
				text, _ := io.ReadAll(response.Body)
				answered <- fmt.Sprint(response.StatusCode, " ", string(text))
			}()
			<-asked

			stopped := make(chan struct{})
			go func() { sys.stop(); close(stopped) }()
			eventually(t, "not ready any more", func() bool { return readyz(s) == http.StatusServiceUnavailable })
			late := sender.Sender{URL: sys.url}
			if err := late.SignWith(s.Secrets[0]); err != nil {
				t.Fatal(err)
			}
			if a, err := late.Post(t.Context(), "msg_late", time.Now(), sample); err == nil && a.Status != http.StatusServiceUnavailable {
				t.Errorf("a request after the end began was answered %v", a)
			}

			if _, err := body.Write(sample); err != nil {
				t.Error(err)
			}
			body.Close()
			if got := <-answered; !strings.HasPrefix(got, `200 {"outcome":"stored"`) {
				t.Errorf("the request in progress was answered %s", got)
			}
			<-stopped
			if a, err := late.Post(t.Context(), "msg_late", time.Now(), sample); err == nil {
				t.Errorf("a request after the end was answered %v", a)
			}

			again := run(t, s)
			requireStored(t, connect(t, again.broker.URL()), s.Stream, map[string]uint64{"msg_slow": 1})
		})
	}
}

// What has connected before the end begins, but asks only after it, comes too
// late.
func TestShutdownRefusesWhatIsLate(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	conn, err := net.Dial("tcp", s.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var late bytes.Buffer
	if err := signed(sys.url, s.Secrets[0], "msg_late", sample).Write(&late); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(late.Next(20)); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { sys.stop(); close(stopped) }()
	eventually(t, "not ready any more", func() bool { return readyz(s) != http.StatusOK })
	_, _ = late.WriteTo(conn)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	<-stopped
	if err == nil { // else it was cut off, which is as good
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got %s", response.Status)
		}
	}
	sys = run(t, s)
	requireStored(t, connect(t, sys.broker.URL()), s.Stream, nil)
	if a := sys.post(t, "msg_late", sample); a.Outcome != "stored" {
		t.Errorf("sent again: %v", a)
	}
}

func awaitReady(t testing.TB, s config.Settings) {
	t.Helper()
	eventually(t, "ready", func() bool { return readyz(s) == http.StatusOK })
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
			l := startLoad(t, s, 8)
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
			requireStored(t, connect(t, "nats://"+s.NATSListen), s.Stream, l.accepted)
		})
	}
}

// The duplicate window is short and over; the subject still tells.
func TestDuplicateBeyondTheWindow(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.DedupeWindow = time.Second
	sys := run(t, s)
	first := sys.post(t, "msg_1", sample)
	sys.stop()
	forgotten := time.Now().Add(3 * time.Second)

	sys = run(t, s)
	time.Sleep(time.Until(forgotten))
	second := sys.post(t, "msg_1", sample)
	if first.Outcome != "stored" || second.Outcome != "duplicate" || second.Sequence != first.Sequence {
		t.Errorf("got %v, then %v", first, second)
	}
	js := connect(t, sys.broker.URL())
	requireStored(t, js, s.Stream, map[string]uint64{"msg_1": first.Sequence})
	stream, err := js.Stream(t.Context(), s.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.Duplicates; got != s.DedupeWindow {
		t.Errorf("the stream's window is %v", got)
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	run(t, s)
	second := newSettings(t)
	second.DataDir = s.DataDir
	_, err := tryRun(t, second)
	if err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("got %v", err)
	}
	if status, _ := get("http://" + second.AdminListen + "/livez"); status != 0 {
		t.Error("an ingress that could not start still answers")
	}
}

// Whatever keeps the ingress from starting ends it soon, and says what it is.
func TestStartFailures(t *testing.T) {
	t.Parallel()
	taken := startBroker(t, embedded.Config{Dir: t.TempDir(), Listen: freeAddr(t)}).URL()
	taken = strings.TrimPrefix(taken, "nats://")
	for name, c := range map[string]struct {
		change func(*config.Settings)
		want   string
	}{
		"listener":       {func(s *config.Settings) { s.Listen = taken }, "INGRESS_LISTEN: "},
		"admin listener": {func(s *config.Settings) { s.AdminListen = taken }, "INGRESS_ADMIN_LISTEN: "},
		"broker":         {func(s *config.Settings) { s.NATSListen = taken }, taken},
		"directory":      {func(s *config.Settings) { s.DataDir = "/dev/null/data" }, "/dev/null"},
		"certificate":    {func(s *config.Settings) { s.TLSCert, s.TLSKey = "cert.pem", "key.pem" }, "INGRESS_TLS_CERT"},
		"configuration":  {func(s *config.Settings) { s.NATSConfig = "/dev/null/nats.conf" }, "/dev/null/nats.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			c.change(&s)
			_, err := tryRun(t, s)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to name %q", err, c.want)
			}
		})
	}
}

// A signal while the broker is awaited is an ordinary end.
func TestEndBeforeTheBrokerIsThere(t *testing.T) {
	t.Parallel()
	s := withBroker(newSettings(t), freeAddr(t))
	cmd, log := launch(t, "versive-ingress", s)
	eventually(t, "alive", func() bool {
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

// A listener that fails later ends the ingress with an error.
func TestWaitReturnsWhatFailed(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	failure := errors.New("accept: no more")
	sys.failed <- failure
	if err := sys.wait(t.Context()); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	sys = run(t, newSettings(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sys.wait(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}

// What the system says about a start names where everything is.
func TestReadyLine(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.Listen, s.AdminListen, s.NATSListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	sys := run(t, s)
	for _, part := range []string{`"msg":"ready"`, `"webhooks":"http://127.0.0.1:`, `"admin":"http://127.0.0.1:`, `"stream":"VERSIVE"`, `"subscribers":"nats://127.0.0.1:`} {
		if !strings.Contains(sys.log.String(), part) {
			t.Errorf("the log lacks %s:\n%s", part, sys.log)
		}
	}
	if bytes.Contains([]byte(sys.log.String()), []byte(":0/")) {
		t.Errorf("the log names a port that is none:\n%s", sys.log)
	}
}
