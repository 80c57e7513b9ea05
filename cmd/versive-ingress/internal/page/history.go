package page

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// minutes is how many minutes a history has.
const minutes = 60

// Requests counts requests by their outcome.
type Requests struct {
	Received    uint64 `json:"received"` // all of them
	Stored      uint64 `json:"stored"`
	Duplicates  uint64 `json:"duplicates"`
	Quarantined uint64 `json:"quarantined"`
	Rejected    uint64 `json:"rejected"`    // answered 4xx
	Unavailable uint64 `json:"unavailable"` // answered 503
}

// minus returns the counts since they were those of before.
func (r Requests) minus(before Requests) Requests {
	return Requests{
		r.Received - before.Received, r.Stored - before.Stored, r.Duplicates - before.Duplicates,
		r.Quarantined - before.Quarantined, r.Rejected - before.Rejected, r.Unavailable - before.Unavailable,
	}
}

// A Minute counts the requests of a minute, or of what has passed of it.
type Minute struct {
	Start time.Time `json:"start"`
	Requests
}

// A history has the counts since the start of the ingress, at the end of each of the
// last minutes.
type history struct {
	mu     sync.Mutex
	ends   []time.Time // guarded by mu
	counts []Requests  // guarded by mu
}

func (h *history) add(now time.Time, counts Requests) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends, h.counts = append(h.ends, now), append(h.counts, counts)
	if surplus := len(h.ends) - minutes; surplus > 0 {
		h.ends, h.counts = h.ends[surplus:], h.counts[surplus:]
	}
}

// lastHour returns the counts of the last hour and of its minutes, the current one last,
// given the current counts.
func (h *history) lastHour(counts Requests) (sum Requests, list []Minute) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.counts) > 0 {
		sum = counts.minus(h.counts[0])
	}
	for i, before := range h.counts {
		end := counts
		if i+1 < len(h.counts) {
			end = h.counts[i+1]
		}
		list = append(list, Minute{h.ends[i].UTC(), end.minus(before)})
	}
	return sum, list
}

// A point is the value of a metric with its labels.
type point struct {
	labels map[string]string
	value  float64
}

// gather returns the current metrics of the ingress by name.
func gather(from prometheus.Gatherer) map[string][]point {
	families, _ := from.Gather() // what cannot be gathered is absent
	all := make(map[string][]point)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make(map[string]string)
			for _, pair := range metric.GetLabel() {
				labels[pair.GetName()] = pair.GetValue()
			}
			all[family.GetName()] = append(all[family.GetName()], point{labels, metric.GetCounter().GetValue() + metric.GetGauge().GetValue()})
		}
	}
	return all
}

func (p *Page) counts() Requests { return countRequests(gather(p.cfg.Metrics)) }

func countRequests(metrics map[string][]point) (r Requests) {
	for _, m := range metrics["versive_ingress_requests_total"] {
		n := uint64(m.value)
		r.Received += n
		switch m.labels["outcome"] {
		case "stored":
			r.Stored += n
		case "duplicate":
			r.Duplicates += n
		case "quarantined":
			r.Quarantined += n
		case "unavailable":
			r.Unavailable += n
		default:
			r.Rejected += n
		}
	}
	return r
}
