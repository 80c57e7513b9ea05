package main

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"net/http"
	"testing"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/schema"
)

func TestInterview(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2 << 10, 8 << 10, 64 << 10, 1 << 20} {
		for n := range 3 {
			body, err := newInterview(size, n)
			if err != nil {
				t.Fatal(err)
			}
			if len(body) < size-1 || len(body) > size {
				t.Errorf("%d bytes, want %d or one less", len(body), size)
			}
			if _, err := schema.Normalize("msg_1", body); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
	}
}

// The requests are real ones: net/http reads them, and the sender's library
// verifies them.
func TestEventsAreSigned(t *testing.T) {
	t.Parallel()
	s := newTestSource(t)
	events := s.next(50)
	if err := s.signAll(events); err != nil {
		t.Fatal(err)
	}
	webhook, err := svix.NewWebhook(s.secret)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for _, e := range events {
		r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(e.head), bytes.NewReader(e.body))))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := webhook.Verify(body, r.Header); err != nil {
			t.Errorf("%s: %v", e.id, err)
		}
		if r.Method != http.MethodPost || r.URL.Path != path || r.Header.Get("svix-id") != e.id {
			t.Errorf("%s: %s %s, id %s", e.id, r.Method, r.URL, r.Header.Get("svix-id"))
		}
		ids[e.id] = true
	}
	if len(ids) != len(events) {
		t.Errorf("%d ids of %d events", len(ids), len(events))
	}
}

func TestWithResends(t *testing.T) {
	t.Parallel()
	events := newTestSource(t).next(10_000)
	if got := withResends(events, 0); len(got) != len(events) {
		t.Errorf("without resends %d sends of %d events", len(got), len(events))
	}
	for _, share := range []float64{0.1, 0.5} {
		order := withResends(events, share)
		seen := make(map[*event]bool)
		for i, e := range order {
			if !seen[e] && e != events[len(seen)] {
				t.Fatalf("send %d is out of order", i)
			}
			seen[e] = true
		}
		if len(seen) != len(events) {
			t.Errorf("%d of %d events are sent", len(seen), len(events))
		}
		if got := float64(len(order)-len(events)) / float64(len(order)); math.Abs(got-share) > 0.02 {
			t.Errorf("share of resends %.3f, want %.1f", got, share)
		}
	}
}
