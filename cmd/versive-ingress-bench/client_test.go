package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// The client keeps its connection, unless the server closes it or answers
// something that is not HTTP, and never takes a response for another request's.
func TestClient(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch string(body) {
		case "stored":
			_, _ = io.WriteString(w, `{"outcome":"stored"}`)
		case "chunked":
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "more")
		case "refused":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "empty":
			w.WriteHeader(http.StatusNoContent)
		case "close":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusUnauthorized)
		case "garbage":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_10\r\n\r\n"))
			conn.Close()
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := &client{ctx: t.Context(), address: server.Listener.Addr().String()}
	s := newSource(newSecret(), 2<<10)
	for _, step := range []struct {
		body  string
		err   string // none if empty
		conns int64  // so far
	}{
		{"stored", "", 1},
		{"chunked", "", 1},
		{"refused", "503", 1},
		{"empty", "", 1},
		{"close", "401", 1},
		{"stored", "", 2},
		{"garbage", "malformed", 2},
		{"stored", "", 3},
	} {
		e := s.next(1)[0]
		e.body = []byte(step.body)
		s.sign([]*event{e})
		err := c.send([]*event{e})
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) || opened.Load() != step.conns {
			t.Errorf("%s: %v, %d connections; want an error with %q and %d", step.body, err, opened.Load(), step.err, step.conns)
		}
	}
}

func TestClientOfNobody(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	c := &client{ctx: t.Context(), address: listener.Addr().String()}
	if err := c.send(newSource(newSecret(), 2<<10).next(1)); err == nil {
		t.Error("no error")
	}
}
