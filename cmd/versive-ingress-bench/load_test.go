package main

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	to := func(n int) []time.Duration { // 1, 2, … n
		var values []time.Duration
		for v := range n {
			values = append(values, time.Duration(v+1))
		}
		return values
	}
	for _, c := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 99, 0},
		{to(1), 50, 1},
		{to(1), 99.9, 1},
		{to(2), 50, 1},
		{to(3), 50, 2},
		{to(100), 50, 50},
		{to(100), 99, 99},
		{to(100), 99.9, 100},
		{to(100), 100, 100},
		{to(101), 99, 100},
		{to(1000), 99.9, 999},
		{to(1001), 99.9, 1000},
		{to(1_000_000), 99.9, 999_000},
	} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("%v %% of 1 to %d: got %d, want %d", c.p, len(c.values), got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	rounds := []measurement{
		{Rate: 3, P99: 10, Proof: proof{Accepted: 1, Missing: 1}},
		{Rate: 1, P99: 30, Proof: proof{Accepted: 2}},
		{Rate: 2, P99: 20, Proof: proof{Accepted: 3}},
	}
	if got, want := median(rounds), (measurement{Rate: 2, P99: 20, Proof: proof{Accepted: 6, Missing: 1}}); got != want {
		t.Errorf("of three: got %+v, want %+v", got, want)
	}
	if got := median(rounds[:2]).Rate; got != 2 {
		t.Errorf("of 3 and 1: got %v, want 2", got)
	}
}

// stalling answers within a millisecond, except for a second once.
func stalling() sender {
	n := 0
	return func([]*event) (bool, error) {
		n++
		if n == 100 {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)
		return true, nil
	}
}

// A handler that stalls for a second makes everything late that was due in
// that second, not only the one request that it was busy with.
func TestOpenLoopCountsFromWhenEventsWereDue(t *testing.T) {
	t.Parallel()
	events := newTestSource(t).next(2000)
	synctest.Test(t, func(t *testing.T) {
		r, err := load{senders: []sender{stalling()}, batch: 1, rate: 100, duration: 5 * time.Second}.run(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(r.latencies)
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
	events := newTestSource(t).next(2000)
	synctest.Test(t, func(t *testing.T) {
		r, err := load{senders: []sender{stalling(), stalling()}, batch: 1, duration: 1500 * time.Millisecond}.run(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(r.latencies)
		if got := len(r.latencies); got != 1000 { // 500 ms of answers in a row, each
			t.Errorf("%d events, want 1000", got)
		}
		if got := percentile(r.latencies, 99); got != time.Millisecond {
			t.Errorf("p99: %v, want 1ms", got)
		}
		for i, e := range events {
			if sent := i < 1000; e.sent.Load() != sent || e.accepted.Load() != sent {
				t.Fatalf("event %d: sent %t, accepted %t, want both %t", i, e.sent.Load(), e.accepted.Load(), sent)
			}
		}
	})
}

// What is not accepted is counted and told from what is; when nobody answers
// at all, the load ends.
func TestFailures(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		answer   func(n int64) (bool, error)
		accepted int
		failures int
		want     error
	}{
		"one in ten":  {func(n int64) (bool, error) { return n%10 != 0, nil }, 90, 10, nil},
		"refused all": {func(int64) (bool, error) { return false, nil }, 0, 100, nil},
		"nobody":      {func(int64) (bool, error) { return false, gone }, 0, maxFailuresInARow, gone},
		"now and then": {func(n int64) (bool, error) {
			if n%maxFailuresInARow == 0 {
				return true, nil
			}
			return false, gone
		}, 5, 95, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := newTestSource(t).next(100)
			var n atomic.Int64
			send := func([]*event) (bool, error) { return c.answer(n.Add(1)) }
			r, err := load{senders: []sender{send}, batch: 1, duration: time.Minute}.run(t.Context(), events)
			if !errors.Is(err, c.want) || err != nil && c.want == nil {
				t.Errorf("got %v, want %v", err, c.want)
			}
			accepted := 0
			for _, e := range events {
				if e.accepted.Load() {
					accepted++
				}
			}
			// A load that ends early has no latencies to speak of.
			if accepted != c.accepted || r.failures != c.failures {
				t.Errorf("%d accepted, %d failures, want %d and %d", accepted, r.failures, c.accepted, c.failures)
			}
		})
	}
}

func TestLoadEndsWithContext(t *testing.T) {
	t.Parallel()
	events := newTestSource(t).next(100)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := load{senders: []sender{stalling()}, batch: 1, rate: 1, duration: time.Hour}.run(ctx, events)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}
