package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A flood gets its answer whether the body was taken, refused in the middle,
// or never completed, and lets go when it is told to.
func TestFloodPost(t *testing.T) {
	t.Parallel()
	stalled := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch id := r.Header.Get("svix-id"); {
		case strings.HasSuffix(id, "0"): // takes it
			if n, _ := io.Copy(io.Discard, r.Body); n != r.ContentLength {
				t.Errorf("read %d bytes of %d", n, r.ContentLength)
			}
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(id, "1"): // reads nothing
			http.Error(w, "busy", http.StatusServiceUnavailable)
		default:
			close(stalled)
			if n, err := io.Copy(io.Discard, r.Body); err == nil {
				t.Errorf("read %d bytes of %d and no error", n, r.ContentLength)
			}
		}
	}))
	defer server.Close()
	s, err := newSource(newSecret(), floodSize)
	if err != nil {
		t.Fatal(err)
	}
	events := s.next(3)
	if err := s.signAll(events); err != nil {
		t.Fatal(err)
	}

	f := &flood{address: server.Listener.Addr().String(), events: events}
	if status, err := f.post(t.Context(), events[0]); status != http.StatusNoContent {
		t.Errorf("taken: status %d, %v", status, err)
	}
	// The connection may be reset before the answer is read: then it was cut.
	if status, err := f.post(t.Context(), events[1]); status != http.StatusServiceUnavailable && err == nil {
		t.Errorf("refused: status %d, %v", status, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-stalled
		cancel()
	}()
	f.stalled = true
	if status, err := f.post(ctx, events[2]); err == nil {
		t.Errorf("stalled: status %d", status)
	}
	for _, e := range events {
		if !e.sent.Load() {
			t.Errorf("%s does not count as sent", e.id)
		}
	}
}
