package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The client understands what net/http's server answers, and stays in step:
// no answer is taken for that of another request.
func TestClient(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch string(body) {
		case "stored":
			_, _ = io.WriteString(w, `{"outcome":"stored"}`)
		case "long":
			text := strings.Repeat("x", 2000)
			_, _ = io.WriteString(w, text)
		case "empty":
			w.WriteHeader(http.StatusNoContent)
		case "full":
			http.Error(w, "full", http.StatusServiceUnavailable)
		case "close":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusUnauthorized)
		case "chunked":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := &client{address: server.Listener.Addr().String(), until: time.Now().Add(patience)}
	defer c.close()
	s := newTestSource(t)
	for _, step := range []struct {
		body   string
		status int // 0: an error
		conns  int64
	}{
		{"stored", 200, 1},
		{"long", 200, 1},
		{"empty", 204, 1},
		{"full", 503, 1},
		{"close", 401, 1},
		{"stored", 200, 2},
		{"chunked", 0, 2},
		{"stored", 200, 3},
	} {
		e := s.next(1)[0]
		e.body = []byte(step.body)
		if err := s.signAll([]*event{e}); err != nil {
			t.Fatal(err)
		}
		status, err := c.do(e)
		if status != step.status && step.status != 0 || (err != nil) != (step.status == 0) || conns.Load() != step.conns {
			t.Errorf("%s: status %d, %v, %d connections; want %d and %d", step.body, status, err, conns.Load(), step.status, step.conns)
		}
	}
}

// An answer that does not come is an error, and so is one that is none.
func TestClientOfNobody(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1<<10))
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_10\r\n\r\n"))
			conn.Close()
		}
	}()
	s := newTestSource(t)
	e := s.next(1)[0]
	c := &client{address: listener.Addr().String(), until: time.Now().Add(patience)}
	defer c.close()
	if status, err := c.do(e); err == nil {
		t.Errorf("took %d for an answer", status)
	}
	c.until = time.Now().Add(-time.Second)
	if status, err := c.do(e); err == nil {
		t.Errorf("took %d for an answer after the deadline", status)
	}
}
