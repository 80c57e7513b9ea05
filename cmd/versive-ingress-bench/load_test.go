package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count    int // of the values 1, 2, …
		perMille int
		want     time.Duration
	}{
		{1, 1, 1},
		{1, 500, 1},
		{1, 1000, 1},
		{2, 500, 1},
		{3, 500, 2},
		{100, 990, 99},
		{100, 999, 100},
		{101, 990, 100},
		{1000, 999, 999},
		{1001, 999, 1000},
		{1_000_000, 999, 999_000},
	} {
		values := make([]time.Duration, c.count)
		for i := range values {
			values[i] = time.Duration(i + 1)
		}
		if got := quantile(values, c.perMille); got != c.want {
			t.Errorf("%d ‰ of 1 to %d: got %d, want %d", c.perMille, c.count, got, c.want)
		}
	}
}

// stalling responds within a millisecond, except for a second once.
func stalling() sender {
	n := 0
	return func([]*event) error {
		n++
		if n == 100 {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)
		return nil
	}
}

// A handler that stalls for a second delays everything that was due in that
// second, not only the one request that it was handling.
func TestOpenLoopCountsFromWhenEventsWereDue(t *testing.T) {
	t.Parallel()
	events := newSource(newSecret(), 2<<10).next(2000)
	synctest.Test(t, func(t *testing.T) {
		r := load{senders: []sender{stalling()}, batch: 1, rate: 100, duration: 5 * time.Second}.run(t.Context(), events)
		if got := len(r.latencies); got != 500 {
			t.Errorf("%d events in 5 s at 100/s", got)
		}
		// 112 events were late: the stalled one, and those after it until the backlog
		// was gone, which shrank by 9 ms with each. 388 of 500 were not.
		for p, want := range map[int]time.Duration{
			776:  time.Millisecond,
			900:  1001*time.Millisecond - 50*9*time.Millisecond,
			990:  1001*time.Millisecond - 5*9*time.Millisecond,
			1000: 1001 * time.Millisecond,
		} {
			if got := quantile(r.latencies, p); got != want {
				t.Errorf("%d ‰: %v, want %v", p, got, want)
			}
		}
	})
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	events := newSource(newSecret(), 2<<10).next(2000)
	synctest.Test(t, func(t *testing.T) {
		r := load{senders: []sender{stalling(), stalling()}, batch: 1, duration: 1500 * time.Millisecond}.run(t.Context(), events)
		if got := len(r.latencies); got != 1000 { // 500 ms of responses in a row, each
			t.Errorf("%d events, want 1000", got)
		}
		if got := quantile(r.latencies, 990); got != time.Millisecond {
			t.Errorf("p99: %v, want 1ms", got)
		}
		for i, e := range events {
			if sent := i < 1000; e.sent != sent || e.accepted != sent {
				t.Fatalf("event %d: sent %t, accepted %t, want both %t", i, e.sent, e.accepted, sent)
			}
		}
	})
}

func TestLoadCountsFailures(t *testing.T) {
	t.Parallel()
	events := newSource(newSecret(), 2<<10).next(100)
	gone := errors.New("gone")
	n := 0
	send := func([]*event) error {
		n++
		if n%10 == 0 || n%25 == 0 {
			return gone
		}
		return nil
	}
	r := load{senders: []sender{send}, batch: 1, duration: time.Minute}.run(t.Context(), events)
	if len(r.latencies) != 88 || r.failures != 12 || !errors.Is(r.lastErr, gone) {
		t.Errorf("%d accepted, %d failures, %v; want 88, 12, %v", len(r.latencies), r.failures, r.lastErr, gone)
	}
	for i, e := range events {
		if failed := (i+1)%10 == 0 || (i+1)%25 == 0; !e.sent || e.accepted == failed {
			t.Errorf("event %d: sent %t, accepted %t", i, e.sent, e.accepted)
		}
	}
}

func TestLoadEndsWithContext(t *testing.T) {
	t.Parallel()
	events := newSource(newSecret(), 2<<10).next(100)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		r := load{senders: []sender{stalling()}, batch: 1, rate: 1, duration: time.Hour}.run(ctx, events)
		if len(r.latencies) != 2 || r.elapsed != 1500*time.Millisecond {
			t.Errorf("%d events in %v", len(r.latencies), r.elapsed)
		}
	})
}

// Half of the forged requests are signed by a stranger and half are unsigned. All
// are recent and complete.
func TestForged(t *testing.T) {
	t.Parallel()
	own := newSource(newSecret(), 2<<10)
	var unsigned, foreign atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) != 2<<10 {
			t.Errorf("read %d bytes, %v", len(body), err)
		}
		switch {
		case own.webhook.Verify(body, r.Header) == nil:
			t.Error("signed by the sender")
		case r.Header.Get("svix-id")+r.Header.Get("svix-timestamp")+r.Header.Get("svix-signature") == "":
			unsigned.Add(1)
		case r.Header.Get("svix-id") != "" && r.Header.Get("svix-timestamp") != "" && r.Header.Get("svix-signature") != "":
			foreign.Add(1)
		default:
			t.Errorf("neither unsigned nor forged: %v", r.Header)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	c := &client{ctx: t.Context(), address: server.Listener.Addr().String()}
	for _, e := range newForged(2 << 10)[:50] {
		if err := c.send([]*event{e}); err == nil || err.Error() != "401 Unauthorized" {
			t.Error(err)
		}
	}
	if u, f := unsigned.Load(), foreign.Load(); u != 25 || f != 25 {
		t.Errorf("%d unsigned, %d foreign", u, f)
	}
}
