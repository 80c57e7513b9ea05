package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"time"
)

// A bench measures cases.
type bench struct {
	ingress  []string // binaries of the ingress
	warmup   time.Duration
	duration time.Duration
	rounds   int
	out      string    // directory for reports and, during a measurement, data
	progress io.Writer // gets a line for each measurement
}

// figures are the results of a measurement. The names of those in the report's table
// are titles; "events read back" is in JSON only.
type figures map[string]float64

// run measures all cases once in every round. When ctx is done or a measurement
// fails, it returns the measurements until then, and the error.
func (b *bench) run(ctx context.Context, cases []testCase) (*report, error) {
	r := &report{Started: time.Now(), Machine: thisMachine(), Ingress: b.ingress, Rounds: b.rounds, Duration: b.duration.Seconds()}
	for round := range b.rounds {
		for i, c := range cases {
			f, err := b.measure(ctx, c)
			if ctx.Err() != nil {
				return r, context.Cause(ctx) // any other error follows from it
			}
			if err != nil {
				return r, fmt.Errorf("%v: %w", c, err)
			}
			if round == 0 {
				r.Rows = append(r.Rows, row{testCase: c})
			}
			row := &r.Rows[i]
			row.Rounds = append(row.Rounds, f)
			row.Median = median(row.Rounds)
			fmt.Fprintf(b.progress, "round %d of %d: %v: %.0f requests/s, p99 %.1f ms, %.0f µs CPU; %.0f events read back\n",
				round+1, b.rounds, c, f["requests/s"], f["p99 ms"], f["CPU µs"], f["events read back"])
		}
	}
	return r, nil
}

// measure measures a case once, on a system of its own, and proves that the stream
// holds each event that was answered 2xx.
func (b *bench) measure(ctx context.Context, c testCase) (figures, error) {
	dir, err := os.MkdirTemp(b.out, "data-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s := newSource(newSecret(), c.Size)
	if c.Stored > 0 {
		if err := b.prefill(ctx, c, dir, s); err != nil {
			return nil, fmt.Errorf("storing events beforehand: %w", err)
		}
	}
	sys, err := b.start(ctx, c, dir, s.secret)
	if err != nil {
		return nil, err
	}
	defer sys.stop()
	f, err := b.warmUpAndLoad(sys, c, s)
	if err != nil {
		return nil, err
	}
	f["ready s"] = sys.ready.Seconds()
	if sys.stream == "" {
		return f, nil
	}
	accepted, err := sys.prove(s)
	f["events read back"] = float64(accepted)
	return f, err
}

// warmUpAndLoad sends two loads beside forged requests, and returns the figures of
// the second.
func (b *bench) warmUpAndLoad(sys *system, c testCase, s *source) (figures, error) {
	var forged result
	var forging sync.WaitGroup
	ctx, stopForging := context.WithCancel(sys.ctx)
	defer forging.Wait()
	defer stopForging()
	if c.Forged > 0 {
		l := load{senders: sys.senders(c.Forged * c.Connections), batch: 1, rate: c.Forged * c.Rate, duration: math.MaxInt64, repeat: true}
		events := newForged(c.Size)
		forging.Go(func() { forged = l.run(ctx, events) })
	}

	_, _, batch := c.parts()
	l := load{senders: sys.senders(c.Connections), batch: batch, rate: c.Rate, duration: b.warmup}
	// Signing more events, or more bytes, takes too long. If they run out, the warm-up
	// ends early.
	guess := float64(min(50_000, (256<<20)/c.Size))
	warm, err := sys.send(l, s, eventsFor(guess, b.warmup), c.Duplicates)
	if err != nil {
		return nil, err
	}
	l.duration = b.duration
	rate := 1.5 * max(warm["requests/s"], float64(c.Rate)) // the load may be faster than its warm-up
	f, err := sys.send(l, s, eventsFor(rate, b.duration), c.Duplicates)
	if err != nil || c.Forged == 0 {
		return f, err
	}
	stopForging()
	forging.Wait()
	if n := len(forged.latencies); n > 0 {
		return nil, fmt.Errorf("%d forged requests were answered 2xx", n)
	}
	f["forged/s"] = float64(forged.failures) / forged.elapsed.Seconds()
	return f, nil
}

// eventsFor returns how many events a load at a rate gets. An event takes half a KiB
// of memory.
func eventsFor(rate float64, d time.Duration) int {
	return min(max(int(rate*d.Seconds()), 1_000), 1_000_000)
}

// prefill posts c.Stored small events to a system with its data in dir, which it
// then stops, and adds them to the events of s.
func (b *bench) prefill(ctx context.Context, c testCase, dir string, s *source) error {
	sys, err := b.start(ctx, c, dir, s.secret)
	if err != nil {
		return err
	}
	defer sys.stop()
	small := newSource(s.secret, 2<<10)
	l := load{senders: sys.senders(256), batch: 1, duration: math.MaxInt64}
	const part = 20_000
	for left := c.Stored; left > 0; left -= part {
		if _, err := sys.send(l, small, min(left, part), 0); err != nil {
			return err
		}
	}
	s.events = append(s.events, small.events...)
	return sys.settle(small)
}

// send makes n events, signs them, sends them as l describes, and returns the
// figures of that.
func (sys *system) send(l load, s *source, n int, duplicates float64) (figures, error) {
	events := s.next(n)
	if sys.address != "" {
		s.sign(events)
	}
	order := withResends(events, duplicates)
	runtime.GC() // rather than during the load
	before, err := sys.usage()
	if err != nil {
		return nil, err
	}
	r := l.run(sys.ctx, order)
	for _, e := range events {
		e.head = nil // is large, and settle signs anew
	}
	if err := context.Cause(sys.ctx); err != nil {
		return nil, err
	}
	if len(r.latencies) == 0 {
		return nil, fmt.Errorf("no event was accepted: %w", r.lastErr)
	}
	after, err := sys.usage()
	if err != nil {
		return nil, err
	}
	return summarize(r, before, after), nil
}

// summarize returns the figures of a load with at least one accepted event.
func summarize(r result, before, after map[string]usage) figures {
	requests, elapsed := float64(len(r.latencies)), r.elapsed.Seconds()
	ms := func(perMille int) float64 { return quantile(r.latencies, perMille).Seconds() * 1e3 }
	f := figures{
		"requests/s": requests / elapsed,
		"failures":   float64(r.failures),
		"p50 ms":     ms(500),
		"p99 ms":     ms(990),
		"p99.9 ms":   ms(999),
		"max ms":     ms(1000),
		"log KiB/s":  (after["service"].log - before["service"].log) / elapsed,
	}
	for role := range after {
		f[role+" µs"] = (after[role].cpu - before[role].cpu) * 1e6 / requests
		f[role+" MiB"] = after[role].memory
	}
	f["CPU µs"] = f["service µs"] + f["broker µs"]
	return f
}
