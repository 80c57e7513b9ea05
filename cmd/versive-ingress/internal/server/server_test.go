package server

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
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// During the shutdown, accepted requests get their answers, and no other is accepted.
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
			request := sys.request(s.Secrets[0], "msg_slow", sample)
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
			embeddedtest.Receive(t, "the server asks for the body", asked)

			stopped := make(chan struct{})
			go func() { sys.Stop(); close(stopped) }()
			embeddedtest.Await(t, "not ready any more", func() bool { return sys.readyz() == http.StatusServiceUnavailable })
			if status, text := sys.post("msg_late", sample); status != 0 && status != http.StatusServiceUnavailable {
				t.Errorf("a request after the end began was answered %d %s", status, text)
			}

			if _, err := io.WriteString(body, sample); err != nil {
				t.Error(err)
			}
			body.Close()
			if got := embeddedtest.Receive(t, "an answer", answered); !strings.HasPrefix(got, `200 {"outcome":"stored"`) {
				t.Errorf("the request in progress was answered %s", got)
			}
			embeddedtest.Receive(t, "the ingress stops", stopped)
			if status, text := sys.post("msg_late", sample); status != 0 {
				t.Errorf("a request after the end was answered %d %s", status, text)
			}
			run(t, s).requireStored(t, "msg_slow")
		})
	}
}

// A client that connects before the shutdown, but sends its request after it has
// begun, gets 503 or no answer.
func TestShutdownRefusesWhatIsLate(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	conn, err := net.Dial("tcp", sys.settings.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var late bytes.Buffer
	if err := sys.request(s.Secrets[0], "msg_late", sample).Write(&late); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(late.Next(20)); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { sys.Stop(); close(stopped) }()
	embeddedtest.Await(t, "not ready any more", func() bool { return sys.readyz() != http.StatusOK })
	_, _ = late.WriteTo(conn)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	embeddedtest.Receive(t, "the ingress stops", stopped)
	if err == nil { // else it was cut off, which is as good
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got %s", response.Status)
		}
	}
	sys = run(t, s)
	sys.requireStored(t)
	if status, text := sys.post("msg_late", sample); status != http.StatusOK {
		t.Errorf("sent again: %d %s", status, text)
	}
}

// While it drains, an ingress is not ready, accepts webhooks all the same, and closes
// keep-alive connections, so that clients reconnect to another instance.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.DrainDelay = 4 * time.Second // time enough for a webhook
	sys := run(t, s)
	if status, text := sys.post("msg_1", sample); status != http.StatusOK {
		t.Fatal(status, text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- sys.Wait(ctx) }()
	embeddedtest.Await(t, "not ready any more", func() bool { return sys.readyz() == http.StatusServiceUnavailable })
	response, err := sender.Client.Do(sys.request(s.Secrets[0], "msg_2", sample))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK || !response.Close {
		t.Errorf("a webhook during the drain: %s, connection closed: %t", response.Status, response.Close)
	}
	select {
	case <-ended:
		t.Error("the drain was over before the webhook was answered")
	default:
		if err := embeddedtest.Receive(t, "the drain ends", ended); err != nil {
			t.Error(err)
		}
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	run(t, s)
	second := newSettings(t)
	second.DataDir, second.AdminListen = s.DataDir, embeddedtest.FreeAddress(t)
	_, err := tryRun(t, second)
	if err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("got %v", err)
	}
	if status, _ := get("http://" + second.AdminListen + "/livez"); status != 0 {
		t.Error("an ingress that could not start still answers")
	}
}

// An error that keeps the ingress from starting ends it soon, and is reported.
func TestStartFailures(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	taken := listener.Addr().String()
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

// A listener that fails later ends the ingress with an error.
func TestWaitReturnsWhatFailed(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	failure := errors.New("accept: no more")
	sys.failed <- failure
	if err := sys.Wait(t.Context()); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	sys = run(t, newSettings(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sys.Wait(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}

// The log of a start names all addresses.
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

// The log has the line "ready" when /readyz agrees: here after a full stream has room.
func TestReadyLineOfFullStream(t *testing.T) {
	t.Parallel()
	js := embeddedtest.Connect(t, embeddedtest.StartBroker(t, embedded.Config{}).URL())
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "VERSIVE", Subjects: []string{"versive.>"}, Discard: jetstream.DiscardNew, Duplicates: 48 * time.Hour, MaxMsgs: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "versive.full", nil); err != nil {
		t.Fatal(err)
	}
	s := newSettings(t)
	s.NATSURL, s.NATSListen = js.Conn().ConnectedUrl(), ""
	sys := run(t, s)
	if status := sys.readyz(); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", status)
	}
	if log := sys.log.String(); strings.Contains(log, `"msg":"ready"`) || !strings.Contains(log, `"msg":"not ready yet","error":"stream VERSIVE: is full`) {
		t.Errorf("the log of an ingress that is not ready:\n%s", log)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the log has the line", func() bool { return strings.Contains(sys.log.String(), `"msg":"ready"`) })
	if status := sys.readyz(); status != http.StatusOK {
		t.Errorf("/readyz: %d", status)
	}
}
