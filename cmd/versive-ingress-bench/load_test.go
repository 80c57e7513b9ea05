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

func TestPercentile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count int // of the values 1, 2, …
		p     float64
		want  time.Duration
	}{
		{0, 99, 0},
		{1, 50, 1},
		{1, 99.9, 1},
		{2, 50, 1},
		{3, 50, 2},
		{100, 99, 99},
		{100, 99.9, 100},
		{101, 99, 100},
		{1000, 99.9, 999},
		{1001, 99.9, 1000},
		{1_000_000, 99.9, 999_000},
	} {
		values := make([]time.Duration, c.count)
		for i := range values {
			values[i] = time.Duration(i + 1)
		}
		if got := percentile(values, c.p); got != c.want {
			t.Errorf("%v %% of 1 to %d: got %d, want %d", c.p, c.count, got, c.want)
		}
	}
}

// stalling responds within a millisecond, except for a second once.
func stalling() sender {
	n := 0
	return senderFunc(func([]*event) (bool, error) {
		n++
		if n == 100 {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)
		return true, nil
	})
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
		for p, want := range map[float64]time.Duration{
			77.6: time.Millisecond,
			90:   1001*time.Millisecond - 50*9*time.Millisecond,
			99:   1001*time.Millisecond - 5*9*time.Millisecond,
			100:  1001 * time.Millisecond,
		} {
			if got := percentile(r.latencies, p); got != want {
				t.Errorf("p%v: %v, want %v", p, got, want)
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
		if got := percentile(r.latencies, 99); got != time.Millisecond {
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
	send := func([]*event) (bool, error) {
		n++
		switch {
		case n%10 == 0:
			return false, nil
		case n%25 == 0:
			return false, gone
		}
		return true, nil
	}
	r := load{senders: []sender{senderFunc(send)}, batch: 1, duration: time.Minute}.run(t.Context(), events)
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
// are fresh and complete, and they come at no more than nine times the rate.
func TestForged(t *testing.T) {
	t.Parallel()
	own := newSource(newSecret(), 2<<10)
	var unsigned, foreign, all atomic.Int64
	enough := make(chan struct{})
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
		if all.Add(1) == 50 {
			close(enough)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	stop := startForged(t.Context(), server.Listener.Addr().String(), testCase{Size: 2 << 10, Connections: 1, Rate: 50, Forged: 9})
	select {
	case <-enough:
	case <-time.After(testTimeout):
		t.Error("the requests do not come")
	}
	r := stop()
	if r.failures > int(450*r.elapsed.Seconds())+1 || len(r.latencies) > 0 || r.lastErr != nil {
		t.Errorf("%d refused in %v, %d accepted, %v", r.failures, r.elapsed, len(r.latencies), r.lastErr)
	}
	if u, f := unsigned.Load(), foreign.Load(); max(u, f)-min(u, f) > 9 { // 9 connections
		t.Errorf("%d unsigned, %d foreign", u, f)
	}
}
