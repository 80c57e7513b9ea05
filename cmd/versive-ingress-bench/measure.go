package main

import (
	"context"
	"errors"
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

// figures are the results of a measurement. A title is the heading in the report's
// table; a figure without one is in the JSON report only.
type figures struct {
	Rate          float64 `json:"requests_per_second" title:"requests/s"` // answered 2xx
	P50           float64 `json:"p50_ms" title:"p50 ms"`
	P99           float64 `json:"p99_ms" title:"p99 ms"`
	P999          float64 `json:"p999_ms" title:"p99.9 ms"`
	Max           float64 `json:"max_ms" title:"max ms"`
	CPU           float64 `json:"cpu_us" title:"CPU µs"`             // of service and brokers, a request
	ServiceCPU    float64 `json:"service_cpu_us" title:"service µs"` // includes an embedded broker
	BrokerCPU     float64 `json:"broker_cpu_us" title:"broker µs"`
	LoadCPU       float64 `json:"load_cpu_us" title:"load µs"`     // of the bench itself
	ServiceMemory float64 `json:"service_mib" title:"service MiB"` // peak of resident memory
	BrokerMemory  float64 `json:"broker_mib" title:"broker MiB"`   // sum of all brokers
	LogRate       float64 `json:"log_kib_per_second" title:"log KiB/s"`
	Ready         float64 `json:"ready_s" title:"ready s"` // from the start of the service until it was ready
	Forged        float64 `json:"forged_per_second" title:"forged/s"`
	Failures      float64 `json:"failures" title:"failures"` // answered otherwise than 2xx, or not at all
	Requests      float64 `json:"requests"`                  // answered 2xx
	Proven        float64 `json:"proven"`                    // events that were answered 2xx and read back
}

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
				round+1, b.rounds, c, f.Rate, f.P99, f.CPU, f.Proven)
		}
	}
	return r, nil
}

// measure measures a case once, on a system of its own, and proves that the stream
// holds each event that was answered 2xx.
func (b *bench) measure(ctx context.Context, c testCase) (f figures, err error) {
	dir, err := os.MkdirTemp(b.out, "data-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	s := newSource(newSecret(), c.Size)
	if c.Stored > 0 {
		if err := b.prefill(ctx, c, dir, s); err != nil {
			return f, fmt.Errorf("storing events beforehand: %w", err)
		}
	}
	sys, err := b.start(ctx, c, dir, s.secret)
	if err != nil {
		return f, err
	}
	defer sys.stop()
	if f, err = b.warmUpAndLoad(sys, c, s); err != nil {
		return f, err
	}
	f.Ready = sys.ready.Seconds()
	if sys.stream != "" {
		f.Proven, err = sys.prove(s)
	}
	return f, err
}

// warmUpAndLoad sends two loads beside forged requests, and returns the figures of
// the second.
func (b *bench) warmUpAndLoad(sys *system, c testCase, s *source) (f figures, err error) {
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
		return f, err
	}
	l.duration = b.duration
	rate := 1.5 * max(warm.Rate, float64(c.Rate)) // the load may be faster than its warm-up
	f, err = sys.send(l, s, eventsFor(rate, b.duration), c.Duplicates)

	stopForging()
	forging.Wait()
	if err == nil && len(forged.latencies) > 0 {
		err = fmt.Errorf("%d forged requests were answered 2xx", len(forged.latencies))
	}
	if c.Forged > 0 {
		f.Forged = float64(forged.failures) / forged.elapsed.Seconds()
	}
	return f, err
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
func (sys *system) send(l load, s *source, n int, duplicates float64) (f figures, err error) {
	events := s.next(n)
	if sys.address != "" {
		s.sign(events)
	}
	order := withResends(events, duplicates)
	runtime.GC() // rather than during the load
	before, err := sys.usage()
	if err != nil {
		return f, err
	}
	r := l.run(sys.ctx, order)
	for _, e := range events {
		e.head = nil // is large, and settle signs anew
	}
	if err := context.Cause(sys.ctx); err != nil {
		return f, err
	}
	if len(r.latencies) == 0 {
		return f, fmt.Errorf("no event was accepted: %w", r.lastErr)
	}
	after, err := sys.usage()
	return summarize(r, before, after), err
}

// A snapshot holds the resources that were used so far.
type snapshot struct{ service, brokers, bench usage }

func (sys *system) usage() (s snapshot, err error) {
	var err1, err2, err3 error
	s.service, err1 = usageOf(sys.services...)
	s.brokers, err2 = usageOf(sys.brokers...)
	s.bench, err3 = usageOf(own)
	return s, errors.Join(err1, err2, err3)
}

// summarize returns the figures of a load with at least one accepted event.
func summarize(r result, before, after snapshot) figures {
	requests, elapsed := float64(len(r.latencies)), r.elapsed.Seconds()
	ms := func(perMille int) float64 { return quantile(r.latencies, perMille).Seconds() * 1e3 }
	each := func(before, after usage) float64 { return (after.cpu - before.cpu) * 1e6 / requests }
	f := figures{
		Requests: requests,
		Failures: float64(r.failures),
		Rate:     requests / elapsed,
		P50:      ms(500), P99: ms(990), P999: ms(999), Max: ms(1000),
		ServiceCPU:    each(before.service, after.service),
		BrokerCPU:     each(before.brokers, after.brokers),
		LoadCPU:       each(before.bench, after.bench),
		ServiceMemory: after.service.memory,
		BrokerMemory:  after.brokers.memory,
		LogRate:       (after.service.log - before.service.log) / elapsed,
	}
	f.CPU = f.ServiceCPU + f.BrokerCPU
	return f
}
