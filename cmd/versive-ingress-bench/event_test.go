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

func TestBody(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2 << 10, 3000, 8 << 10, 64 << 10, 1 << 20} {
		body := newBody(size)
		if len(body) != size {
			t.Errorf("%d bytes, want %d", len(body), size)
		}
		if _, err := schema.Normalize("msg_1", body); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// The requests are real ones: net/http reads them, and the sender's library
// verifies them.
func TestEventsAreSigned(t *testing.T) {
	t.Parallel()
	s := newSource(newSecret(), 2<<10)
	events := s.next(50)
	s.sign(events)
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
		ids[r.Header.Get("svix-id")] = true
	}
	if len(ids) != len(events) {
		t.Errorf("%d ids of %d events", len(ids), len(events))
	}
}

func TestWithResends(t *testing.T) {
	t.Parallel()
	events := newSource(newSecret(), 2<<10).next(10_000)
	for _, share := range []float64{0, 0.1, 0.5} {
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
