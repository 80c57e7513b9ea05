package main

import (
	"bytes"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A sender sends events over one connection.
type sender interface {
	// send sends a batch, awaits the response, and reports whether the events were
	// accepted. An error means that there was no response.
	send(batch []*event) (accepted bool, err error)
	close()
}

func closeAll(senders []sender) {
	for _, s := range senders {
		s.close()
	}
}

// A load describes how events are sent.
type load struct {
	senders  []sender      // one for each connection
	batch    int           // events that a sender sends together
	rate     int           // events a second; 0: each sender sends as soon as it has its response
	duration time.Duration // after it no event is sent; responses are still awaited
	repeat   bool          // after the last event, start again with the first
}

// A result is the outcome of a load.
type result struct {
	latencies []time.Duration // of each accepted send, sorted
	failures  int             // sends that were answered otherwise, or not at all
	lastErr   error           // of the last send without a response
	elapsed   time.Duration
}

// run sends events in their order until none are left, the duration has passed or
// ctx ends.
//
// With a rate, event n is due n/rate after the start, even if those before it are
// still in flight, and its latency counts from then. An event that waited for a free
// connection because the handler stalled therefore shows the stall; counted from
// the actual send, it would not (coordinated omission).
func (l load) run(ctx context.Context, events []*event) result {
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		mu      sync.Mutex // guards r and the outcomes of events
		r       = result{latencies: make([]time.Duration, 0, len(events))}
		start   = time.Now()
	)
	for _, s := range l.senders {
		workers.Go(func() {
			for {
				first := int(next.Add(int64(l.batch))) - l.batch
				due := time.Now()
				if l.rate > 0 {
					due = start.Add(time.Duration(float64(first) / float64(l.rate) * float64(time.Second)))
				}
				if l.repeat {
					first %= len(events)
				}
				if first+l.batch > len(events) || due.Sub(start) >= l.duration || !sleepUntil(ctx, due) {
					return
				}
				batch := events[first : first+l.batch]
				accepted, err := s.send(batch)
				latency := time.Since(due)

				mu.Lock()
				for _, e := range batch {
					e.sent, e.accepted = true, e.accepted || accepted
					if accepted {
						r.latencies = append(r.latencies, latency)
					} else {
						r.failures++
					}
				}
				if err != nil {
					r.lastErr = err
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	r.elapsed = time.Since(start)
	slices.Sort(r.latencies)
	return r
}

// startForged sends c.Forged times the load of c as forged requests: on as many
// times its connections, and at as many times its rate. Half of them have a
// stranger's signature, half have none. stop ends that; it may be called twice.
func startForged(ctx context.Context, address string, c testCase) (stop func() result) {
	const distinct = 1024
	if c.Forged == 0 {
		return func() result { return result{} }
	}
	stranger := newSource(newSecret(), c.Size)
	events := stranger.next(distinct)
	stranger.sign(address, events)
	for i := 0; i < distinct; i += 2 {
		events[i].head = bytes.ReplaceAll(events[i].head, []byte("\r\nsvix-"), []byte("\r\nunsigned-"))
	}

	ctx, cancel := context.WithCancel(ctx)
	senders := posts(address, c.Forged*c.Connections)
	l := load{senders: senders, batch: 1, rate: c.Forged * c.Rate, duration: math.MaxInt64, repeat: true}
	var r result
	done := make(chan struct{})
	go func() {
		r = l.run(ctx, events)
		closeAll(senders)
		close(done)
	}()
	return func() result {
		cancel()
		<-done
		return r
	}
}

// sleepUntil returns true at the given time, or false as soon as ctx has ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// percentile returns the smallest of the sorted values that at least p percent of
// them do not exceed (nearest rank), or 0 if there are none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	// Integer arithmetic: 99.9 % of 1000 is 999 and not, by a rounding error, 1000.
	rank := (int(p*1000+0.5)*len(sorted) + 100_000 - 1) / 100_000
	return sorted[max(rank, 1)-1]
}
