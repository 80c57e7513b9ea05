package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"time"
)

// A bench measures cases.
type bench struct {
	self     string   // this program's binary, which runs the references
	ingress  []string // binaries of the ingress
	warmup   time.Duration
	duration time.Duration
	rounds   int
	out      string    // folder for the report and, during a measurement, the data
	progress io.Writer // gets a line for each measurement
}

// figures are the results of a measurement. The title is the heading in the
// report's table; a figure without one is in the JSON form only.
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
	LoadShare     float64 `json:"load_percent" title:"load %"`     // of all processors
	ServiceMemory float64 `json:"service_mib" title:"service MiB"` // peak of resident memory
	BrokerMemory  float64 `json:"broker_mib" title:"broker MiB"`   // sum of all brokers
	LogRate       float64 `json:"log_kib_per_second" title:"log KiB/s"`
	Ready         float64 `json:"ready_s" title:"ready s"` // from the service's start until it was ready
	Forged        float64 `json:"forged_per_second" title:"forged/s"`
	Failures      float64 `json:"failures" title:"failures"` // answered otherwise than 2xx, or not at all
	Requests      float64 `json:"requests"`                  // answered 2xx
	Proven        float64 `json:"proven"`                    // events that were answered 2xx and read back
}

// run measures all cases once in every round. When ctx ends or a measurement
// fails, it returns what was measured before, and the error.
func (b *bench) run(ctx context.Context, cases []testCase) (*report, error) {
	r := &report{Started: time.Now(), Machine: thisMachine(), Ingress: b.ingress, Rounds: b.rounds, Duration: b.duration.Seconds()}
	for _, c := range cases {
		r.Rows = append(r.Rows, row{testCase: c})
	}
	for round := range b.rounds {
		fsync, err := fsyncTime(b.out)
		if err != nil {
			return r, err
		}
		r.Fsync = append(r.Fsync, fsync)
		for i := range r.Rows {
			row := &r.Rows[i]
			m, err := b.measure(ctx, row.testCase)
			if ctx.Err() != nil {
				return r, context.Cause(ctx) // any other error follows from it
			}
			if err != nil {
				return r, fmt.Errorf("%v: %w", row.testCase, err)
			}
			row.Rounds = append(row.Rounds, m)
			row.Median = median(row.Rounds)
			fmt.Fprintf(b.progress, "round %d of %d: %v: %.0f requests/s, p99 %.1f ms, %.0f µs CPU; %.0f events read back\n",
				round+1, b.rounds, row.testCase, m.Rate, m.P99, m.CPU, m.Proven)
		}
	}
	return r, nil
}

const (
	// A warm-up has events for at most this rate, and for this many bytes of
	// bodies a second: signing more takes too long. If they run out, it ends early.
	warmupRate  = 50_000
	warmupBytes = 256 << 20

	// margin is how much faster than its warm-up a load may be before it runs out
	// of events.
	margin = 1.5

	// A load has at least and at most this many events of half a KiB of memory.
	leastEvents, mostEvents = 1_000, 1_000_000
)

// eventsFor returns how many events a load gets at a rate.
func eventsFor(rate float64, d time.Duration) int {
	return min(max(int(rate*d.Seconds()), leastEvents), mostEvents)
}

// measure measures one case once, on a system of its own, and proves that the
// stream holds what was answered 2xx.
func (b *bench) measure(ctx context.Context, c testCase) (f figures, err error) {
	s := newSource(newSecret(), c.Size)
	dir, err := os.MkdirTemp(b.out, "data-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
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
	defer context.AfterFunc(ctx, sys.stop)() // a sender that awaits a response does not watch ctx

	stopForged := startForged(ctx, sys.address, c)
	defer stopForged()
	senders := sys.senders(c.Connections, sys.target.batch)
	defer closeAll(senders)
	l := load{senders: senders, batch: sys.target.batch, rate: c.Rate, duration: b.warmup}
	guess := float64(min(warmupRate, warmupBytes/c.Size))
	warm, err := sys.send(ctx, l, s, eventsFor(guess, b.warmup), c.Duplicates)
	if err != nil {
		return f, err
	}
	l.duration = b.duration
	rate := max(warm.Rate, float64(c.Rate))
	if f, err = sys.send(ctx, l, s, eventsFor(margin*rate, b.duration), c.Duplicates); err != nil {
		return f, err
	}
	f.Ready = sys.ready.Seconds()
	if forged := stopForged(); c.Forged > 0 {
		f.Forged = float64(forged.failures) / forged.elapsed.Seconds()
		if n := len(forged.latencies); n > 0 {
			return f, fmt.Errorf("%d forged requests were answered 2xx", n)
		}
	}
	if sys.stream != "" {
		f.Proven, err = sys.prove(ctx, s)
	}
	return f, err
}

// prefill posts c.Stored small events to a system with its data in dir, which it
// then stops, and adds them to the events of s.
func (b *bench) prefill(ctx context.Context, c testCase, dir string, s *source) error {
	const size, connections, part = 2 << 10, 256, 20_000
	sys, err := b.start(ctx, c, dir, s.secret)
	if err != nil {
		return err
	}
	defer sys.stop()
	small := newSource(s.secret, size)
	senders := sys.senders(connections, 1)
	defer closeAll(senders)
	l := load{senders: senders, batch: 1, duration: math.MaxInt64}
	for left := c.Stored; left > 0; left -= part {
		if _, err := sys.send(ctx, l, small, min(left, part), 0); err != nil {
			return err
		}
	}
	s.events = append(s.events, small.events...)
	return sys.settle(ctx, small)
}

// send makes n events, signs them, sends them as l describes, and returns the
// figures of that.
func (sys *system) send(ctx context.Context, l load, s *source, n int, duplicates float64) (f figures, err error) {
	events := s.next(n)
	if sys.address != "" {
		s.sign(sys.address, events)
	}
	order := withResends(events, duplicates)
	runtime.GC() // rather than during the load
	before, err := sys.usage()
	if err != nil {
		return f, err
	}
	r := l.run(ctx, order)
	for _, e := range events {
		e.head = nil // is large, and settle signs anew
	}
	if len(r.latencies) == 0 {
		err = errors.Join(errors.New("no event was accepted"), r.lastErr)
	}
	if err := errors.Join(ctx.Err(), sys.failed(), err); err != nil {
		return f, err
	}
	after, err := sys.usage()
	return summarize(r, before, after), err
}

// A snapshot holds what service, brokers and bench have used so far.
type snapshot struct{ service, brokers, bench usage }

func (sys *system) usage() (s snapshot, err error) {
	var err1, err2, err3 error
	s.service, err1 = usageOf(sys.services...)
	s.brokers, err2 = usageOf(sys.brokers...)
	s.bench, err3 = usageOf(self)
	return s, errors.Join(err1, err2, err3)
}

// summarize returns the figures of a load with at least one accepted event.
func summarize(r result, before, after snapshot) figures {
	ms := func(p float64) float64 { return percentile(r.latencies, p).Seconds() * 1e3 }
	requests, elapsed := float64(len(r.latencies)), r.elapsed.Seconds()
	each := func(before, after usage) float64 { return (after.cpu - before.cpu) * 1e6 / requests }
	f := figures{
		Requests: requests,
		Failures: float64(r.failures),
		Rate:     requests / elapsed,
		P50:      ms(50), P99: ms(99), P999: ms(99.9), Max: ms(100),
		ServiceCPU:    each(before.service, after.service),
		BrokerCPU:     each(before.brokers, after.brokers),
		LoadCPU:       each(before.bench, after.bench),
		LoadShare:     100 * (after.bench.cpu - before.bench.cpu) / elapsed / float64(runtime.NumCPU()),
		ServiceMemory: after.service.memory,
		BrokerMemory:  after.brokers.memory,
		LogRate:       (after.service.log - before.service.log) / elapsed,
	}
	f.CPU = f.ServiceCPU + f.BrokerCPU
	return f
}
