package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A sender sends events over one connection and returns, when they are
// answered, whether all of them were accepted. An error means that there was
// no answer.
type sender func([]*event) (accepted bool, err error)

// A load says how events are sent.
type load struct {
	senders  []sender      // one for each connection
	batch    int           // events that a sender is given at once
	rate     int           // events a second; 0: each sender as fast as it is answered
	duration time.Duration // no event is sent later, but all that are sent are waited for
}

// A result is what came of a load.
type result struct {
	latencies []time.Duration // of each event that was accepted
	failures  int             // events that were answered otherwise, or not at all
	elapsed   time.Duration
}

// maxFailuresInARow ends a load: nobody is there to answer it.
const maxFailuresInARow = 20

// run sends events in their order until none are left, the time is over or
// ctx ends.
//
// With a rate, event n is due n/rate after the start, whatever became of those
// before it, and its latency counts from then: an event that had to wait for a
// free connection because the handler stalled shows that stall. Counting from
// the actual send would leave out just those events that suffered (coordinated
// omission).
func (l load) run(ctx context.Context, events []*event) (result, error) {
	var (
		next    atomic.Int64
		workers sync.WaitGroup
		results = make([]result, len(l.senders))
		errs    = make([]error, len(l.senders))
		start   = time.Now()
	)
	for w, send := range l.senders {
		workers.Go(func() {
			r := &results[w] // no other worker's
			inARow := 0
			for {
				last := int(next.Add(int64(l.batch)))
				first := last - l.batch
				if last > len(events) {
					return
				}
				due := time.Now()
				if l.rate > 0 {
					due = start.Add(time.Duration(float64(first) / float64(l.rate) * float64(time.Second)))
				}
				if due.Sub(start) >= l.duration || !sleepUntil(ctx, due) {
					return
				}
				batch := events[first:last]
				for _, e := range batch {
					e.sent.Store(true)
				}
				accepted, err := send(batch)
				latency := time.Since(due)
				if accepted {
					inARow = 0
					for _, e := range batch {
						e.accepted.Store(true)
						r.latencies = append(r.latencies, latency)
					}
					continue
				}
				r.failures += l.batch
				if inARow++; err != nil && inARow >= maxFailuresInARow {
					errs[w] = fmt.Errorf("%d failures in a row, the last: %w", inARow, err)
					return
				}
			}
		})
	}
	workers.Wait()

	total := result{elapsed: time.Since(start)}
	for w, r := range results {
		total.latencies = append(total.latencies, r.latencies...)
		total.failures += r.failures
		if errs[w] != nil {
			return total, errs[w]
		}
	}
	return total, ctx.Err()
}

// sleepUntil returns false when ctx has ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// percentile returns the smallest of the sorted values that at least p percent
// of them do not exceed (nearest rank), or 0 of none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	// In thousandths, so that 99.9 % of 1000 is 999 and not, by a rounding
	// error, one more.
	rank := (int(p*1000+0.5)*len(sorted) + 100_000 - 1) / 100_000
	return sorted[max(rank, 1)-1]
}
