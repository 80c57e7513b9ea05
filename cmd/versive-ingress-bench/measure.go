package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

// A measurement is what one case came to, in one round or in the median.
type measurement struct {
	Requests    float64 `json:"requests"` // answered 2xx
	Failures    float64 `json:"failures"` // answered otherwise, or not at all
	Rate        float64 `json:"requests_per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	P999        float64 `json:"p999_ms"`
	Max         float64 `json:"max_ms"`
	CPU         float64 `json:"cpu_us"`         // service and broker, a request
	ServiceCPU  float64 `json:"service_cpu_us"` // with the embedded broker in it
	BrokerCPU   float64 `json:"broker_cpu_us"`
	LoadCPU     float64 `json:"load_cpu_us"`          // the bench's own; with bare publishing, the publisher's
	LoadShare   float64 `json:"load_share"`           // of all processors
	ServicePeak float64 `json:"service_memory_bytes"` // most resident memory, bytes
	BrokerPeak  float64 `json:"broker_memory_bytes"`  // sum of all brokers
	LogRate     float64 `json:"service_log_bytes_per_second"`
	Ready       float64 `json:"ready_s"` // from the service's start until it took webhooks
	Proof       proof   `json:"proof"`
	Flood       tally   `json:"flood"`
}

// figures are the fields that have a median.
var figures = []func(*measurement) *float64{
	func(m *measurement) *float64 { return &m.Requests },
	func(m *measurement) *float64 { return &m.Failures },
	func(m *measurement) *float64 { return &m.Rate },
	func(m *measurement) *float64 { return &m.P50 },
	func(m *measurement) *float64 { return &m.P99 },
	func(m *measurement) *float64 { return &m.P999 },
	func(m *measurement) *float64 { return &m.Max },
	func(m *measurement) *float64 { return &m.CPU },
	func(m *measurement) *float64 { return &m.ServiceCPU },
	func(m *measurement) *float64 { return &m.BrokerCPU },
	func(m *measurement) *float64 { return &m.LoadCPU },
	func(m *measurement) *float64 { return &m.LoadShare },
	func(m *measurement) *float64 { return &m.ServicePeak },
	func(m *measurement) *float64 { return &m.BrokerPeak },
	func(m *measurement) *float64 { return &m.LogRate },
	func(m *measurement) *float64 { return &m.Ready },
}

// median returns the median of each figure by itself, and the sum of the
// proofs and tallies.
func median(rounds []measurement) measurement {
	var m measurement
	for _, figure := range figures {
		values := make([]float64, len(rounds))
		for i := range rounds {
			values[i] = *figure(&rounds[i])
		}
		slices.Sort(values)
		if n := len(values); n > 0 {
			*figure(&m) = (values[n/2] + values[(n-1)/2]) / 2
		}
	}
	for _, round := range rounds {
		m.Proof.add(round.Proof)
		m.Flood.add(round.Flood)
	}
	return m
}

func (p *proof) add(q proof) {
	p.Accepted += q.Accepted
	p.Stored += q.Stored
	p.Missing += q.Missing
	p.Doubled += q.Doubled
	p.Foreign += q.Foreign
}

const (
	// A warm-up has events for this rate, as far as they have no more than so
	// many bytes of bodies to sign. If they run out, it just ends early.
	warmupRate  = 50_000
	warmupBytes = 256 << 20

	// One measurement has that many events at least and at most; they take half
	// a KiB of memory each.
	leastEvents = 1_000
	maxEvents   = 1_000_000

	// margin is by how much a load may be faster than its warm-up before it
	// runs out of events.
	margin = 1.5

	// settleTries is how often an event that was not accepted is sent again.
	settleTries = 10
)

// measure runs one case once, on a system of its own, and proves the promise.
func (b *bench) measure(ctx context.Context, c testCase) (m measurement, err error) {
	t, err := parseTarget(c.Target)
	if err != nil {
		return m, err
	}
	s, err := newSource(newSecret(), c.Size)
	if err != nil {
		return m, err
	}
	dir, err := newDir(b.out)
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(dir)
	sys, err := start(ctx, b.programs, t, dir, s)
	if err != nil {
		return m, err
	}
	defer func() { sys.stop() }() // whichever it is then

	if c.Stored > 0 {
		if err := prefill(ctx, sys, s, c.Stored); err != nil {
			return m, err
		}
		sys.stop()
		again, err := start(ctx, b.programs, t, dir, s)
		if err != nil {
			return m, err
		}
		sys = again
	}

	// Whoever waits for an answer does not see ctx end; it sees the end of that.
	defer context.AfterFunc(ctx, sys.stop)()

	stopFlood, err := startFlood(ctx, sys, c, s)
	if err != nil {
		return m, err
	}
	defer stopFlood()
	senders, closeSenders, err := sys.open(ctx, c.Connections, t.batch, time.Now().Add(b.warmup+b.duration+2*time.Minute))
	if err != nil {
		return m, err
	}
	defer closeSenders()
	l := load{senders: senders, batch: t.batch, rate: c.Rate, duration: b.warmup}
	warm, err := sys.send(ctx, l, s, max(2*t.batch, min(int(warmupRate*b.warmup.Seconds()), warmupBytes/c.Size)), c.Duplicates)
	if err != nil {
		return m, err
	}
	if len(warm.latencies) == 0 && c.Flood == "" { // which may well drown the rest
		return m, errors.New("no event was accepted")
	}
	rate := float64(c.Rate)
	if rate == 0 {
		rate = float64(len(warm.latencies)) / warm.elapsed.Seconds()
	}
	wanted := max(2*t.batch, min(leastEvents, warmupBytes/c.Size), int(margin*rate*b.duration.Seconds()))
	l.duration = b.duration
	if m, err = sys.meter(ctx, l, s, wanted, c.Duplicates); err != nil {
		return m, err
	}
	m.Flood = stopFlood()
	if sys.stream == "" {
		return m, nil
	}
	m.Proof, err = sys.settleAndProve(ctx, s.events)
	return m, err
}

// send makes up to n events and sends them.
func (sys *system) send(ctx context.Context, l load, s *source, n int, duplicates float64) (result, error) {
	order, err := sys.prepare(s, n, duplicates)
	if err != nil {
		return result{}, err
	}
	r, err := l.run(ctx, order)
	return r, errors.Join(err, sys.failed())
}

func (sys *system) prepare(s *source, n int, duplicates float64) ([]*event, error) {
	events := s.next(min(n, maxEvents))
	if sys.service != nil {
		if err := s.signAll(events); err != nil {
			return nil, err
		}
	}
	runtime.GC() // not while it is measured
	return withResends(events, duplicates), nil
}

// meter sends up to n events and measures what that costs.
func (sys *system) meter(ctx context.Context, l load, s *source, n int, duplicates float64) (m measurement, err error) {
	order, err := sys.prepare(s, n, duplicates)
	if err != nil {
		return m, err
	}
	before, err := sys.usage()
	if err != nil {
		return m, err
	}
	r, err := l.run(ctx, order)
	if err = errors.Join(err, sys.failed()); err != nil {
		return m, err
	}
	after, err := sys.usage()
	if err != nil {
		return m, err
	}
	m = summarize(r)
	each := func(used time.Duration) float64 {
		if m.Requests == 0 {
			return 0
		}
		return used.Seconds() * 1e6 / m.Requests
	}
	m.ServiceCPU = each(after.service - before.service)
	m.BrokerCPU = each(after.brokers - before.brokers)
	m.CPU = m.ServiceCPU + m.BrokerCPU
	m.LoadCPU = each(after.bench - before.bench)
	m.LoadShare = (after.bench - before.bench).Seconds() / r.elapsed.Seconds() / float64(runtime.NumCPU())
	m.ServicePeak, m.BrokerPeak = float64(after.servicePeak), float64(after.brokersPeak)
	m.LogRate = float64(after.log-before.log) / r.elapsed.Seconds()
	m.Ready = sys.ready.Seconds()
	return m, nil
}

func summarize(r result) measurement {
	slices.Sort(r.latencies)
	ms := func(p float64) float64 { return percentile(r.latencies, p).Seconds() * 1e3 }
	return measurement{
		Requests: float64(len(r.latencies)),
		Failures: float64(r.failures),
		Rate:     float64(len(r.latencies)) / r.elapsed.Seconds(),
		P50:      ms(50), P99: ms(99), P999: ms(99.9), Max: ms(100),
	}
}

// settleAndProve sends what was not accepted again, as the real sender does,
// and then compares with the stream.
func (sys *system) settleAndProve(ctx context.Context, events []*event) (proof, error) {
	senders, closeSenders, err := sys.open(ctx, 1, 1, time.Now().Add(time.Minute))
	if err != nil {
		return proof{}, err
	}
	defer closeSenders()
	for _, e := range events {
		if !e.sent.Load() || e.accepted.Load() {
			continue
		}
		for try := 1; !e.accepted.Load(); try++ {
			accepted, err := senders[0]([]*event{e})
			e.accepted.Store(accepted)
			if !accepted && try == settleTries {
				return proof{}, errors.Join(fmt.Errorf("event %s was sent %d times more and is still not accepted", e.id, try), err, ctx.Err())
			}
			if !accepted && !sleepUntil(ctx, time.Now().Add(100*time.Millisecond)) {
				return proof{}, ctx.Err()
			}
		}
	}

	js, closeConn, err := connect(sys.nats)
	if err != nil {
		return proof{}, err
	}
	defer closeConn()
	stored, err := readIDs(ctx, js, sys.stream)
	if err != nil {
		return proof{}, err
	}
	p := prove(events, stored)
	return p, p.err()
}
