package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/subscribe"
)

// pipes is a listener whose connections are within the process, so that a
// bubble's clock can run between both ends of real HTTP.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error { close(p); return nil }

func (p pipes) Addr() net.Addr { return &net.IPAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p <- far
	return near, nil
}

// deliverTo delivers one event to a handler. It must be called in a bubble.
func deliverTo(ctx context.Context, t *testing.T, handler http.HandlerFunc) (took time.Duration, notes []string, confirmed bool, err error) {
	listener := make(pipes)
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	defer server.Close()
	c := *sender.Client // with its timeout, and what it does with redirects
	c.Transport = &http.Transport{DialContext: listener.dial}
	target := &urlTarget{
		sender:    &sender.Sender{URL: "http://endpoint/hook?token=hunter2", HTTP: &c},
		delivered: func(subscribe.Message, bool) { confirmed = true },
		note:      func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) },
	}
	defer c.CloseIdleConnections()
	if err := target.sender.SignWith("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = target.deliver(ctx, subscribe.Message{ID: "msg_1", Sequence: 42, Header: nats.Header{}, Data: []byte(`{"a":"Transcript"}`)})
	took = time.Since(start)
	if text := fmt.Sprint(err, notes); strings.Contains(text, "Transcript") || strings.Contains(text, "hunter2") || strings.Contains(text, "whsec") {
		t.Errorf("tells a secret: %s", text)
	}
	return took, notes, confirmed, err
}

// A rejected event is posted again as long as that may help, and not before the
// time that the endpoint asks for.
func TestReplayToURL(t *testing.T) {
	t.Parallel()
	answer := func(status int, after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, "Transcript")
		}
	}
	inTwoMinutes := func(w http.ResponseWriter, r *http.Request) {
		answer(503, time.Now().Add(2*time.Minute).UTC().Format(http.TimeFormat))(w, r)
	}
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client has gone
		<-r.Context().Done()
	}
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n\r\n", r.RequestURI)
	}
	nowhere := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://[Transcript")
		w.WriteHeader(http.StatusFound)
	}
	for name, test := range map[string]struct {
		answers  []http.HandlerFunc // the last one repeats
		requests int
		min, max time.Duration
		want     string // of the error; "" is success
	}{
		"at once":           {[]http.HandlerFunc{answer(204, "")}, 1, 0, 0, ""},
		"429, seconds":      {[]http.HandlerFunc{answer(429, "7"), answer(200, "")}, 2, 7 * time.Second, 7 * time.Second, ""},
		"503, date":         {[]http.HandlerFunc{inTwoMinutes, answer(200, "")}, 2, 2 * time.Minute, 2 * time.Minute, ""},
		"503, silent":       {[]http.HandlerFunc{answer(503, ""), answer(200, "")}, 2, shortestPause / 2, shortestPause, ""},
		"503, long":         {[]http.HandlerFunc{answer(503, "3600")}, 1, 0, 0, "answered 503 Service Unavailable and asks to wait 1h0m0s; rerun after that"},
		"500, thrice":       {[]http.HandlerFunc{answer(500, ""), answer(502, ""), answer(504, ""), answer(201, "")}, 4, 1750 * time.Millisecond, 3500 * time.Millisecond, ""},
		"500, 7 asked":      {[]http.HandlerFunc{answer(500, "7"), answer(200, "")}, 2, shortestPause / 2, shortestPause, ""},
		"500, always":       {[]http.HandlerFunc{answer(500, "")}, postAttempts, 60 * time.Second, 122 * time.Second, "answered 500 Internal Server Error; giving up after 10 attempts"},
		"429, always":       {[]http.HandlerFunc{answer(429, "1")}, postAttempts, 9 * time.Second, 9 * time.Second, "answered 429 Too Many Requests; giving up after 10 attempts"},
		"lost connection":   {[]http.HandlerFunc{hangUp, answer(200, "")}, 2, shortestPause / 2, shortestPause, ""},
		"no answer":         {[]http.HandlerFunc{silent, answer(200, "")}, 2, config.SenderTimeout, config.SenderTimeout + shortestPause, ""},
		"echo":              {[]http.HandlerFunc{echo, answer(200, "")}, 2, shortestPause / 2, shortestPause, ""},
		"redirect nowhere":  {[]http.HandlerFunc{nowhere, answer(200, "")}, 2, shortestPause / 2, shortestPause, ""},
		"400":               {[]http.HandlerFunc{answer(400, "1")}, 1, 0, 0, "answered 400 Bad Request"},
		"401":               {[]http.HandlerFunc{answer(401, "")}, 1, 0, 0, "answered 401 Unauthorized"},
		"redirect":          {[]http.HandlerFunc{http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect).ServeHTTP}, 1, 0, 0, "answered 307 Temporary Redirect"},
		"503, then refused": {[]http.HandlerFunc{answer(503, "1"), answer(410, "")}, 2, time.Second, time.Second, "answered 410 Gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				took, notes, confirmed, err := deliverTo(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
					requests++
					test.answers[min(requests, len(test.answers))-1](w, r)
				})
				if took < test.min || took > test.max {
					t.Errorf("took %v, want %v to %v", took, test.min, test.max)
				}
				if requests != test.requests || len(notes) != requests-1 {
					t.Errorf("%d requests and %d notes, want %d", requests, len(notes), test.requests)
				}
				switch want := "event msg_1 (sequence 42): the endpoint " + test.want; {
				case confirmed != (err == nil):
					t.Errorf("confirmed %v, error %v", confirmed, err)
				case test.want == "" && err != nil, test.want != "" && (err == nil || err.Error() != want):
					t.Errorf("got %v, want %s", err, want)
				}
			})
		})
	}
}

// Ctrl-C does not wait for the endpoint.
func TestReplayToURLInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		took, _, confirmed, err := deliverTo(ctx, t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		if took != 3*time.Second || confirmed || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took %v, confirmed %v, error %v", took, confirmed, err)
		}
	})
}
