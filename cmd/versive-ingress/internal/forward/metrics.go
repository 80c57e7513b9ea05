package forward

import "github.com/prometheus/client_golang/prometheus"

// Outcomes of forwarded messages.
const (
	outcomeStored    = "stored"    // the hub has stored it
	outcomeDuplicate = "duplicate" // the hub had it
	outcomeErased    = "erased"    // the hub has its tombstone, so it was erased here
	outcomeErasure   = "erasure"   // it was a tombstone, and the hub has erased the copy
)

type metrics struct {
	f      *Forwarder
	events *prometheus.CounterVec
}

func newMetrics(f *Forwarder) *metrics {
	m := &metrics{f, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "versive_ingress_forward_events_total",
		Help: "Messages that the hub has confirmed, by outcome.",
	}, []string{"outcome"})}
	for _, outcome := range []string{outcomeStored, outcomeDuplicate, outcomeErased, outcomeErasure} {
		m.events.WithLabelValues(outcome)
	}
	return m
}

var (
	connectedDesc = prometheus.NewDesc("versive_ingress_forward_connected", "Whether the hub can store events: 1 or 0.", nil, nil)
	pendingDesc   = prometheus.NewDesc("versive_ingress_forward_pending_events", "Messages of the stream that wait to be forwarded.", []string{"stream"}, nil)
	oldestDesc    = prometheus.NewDesc("versive_ingress_forward_oldest_pending_seconds", "How long ago the oldest message of the stream that waits to be forwarded was stored; 0 if there is none.", []string{"stream"}, nil)
)

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.events.Describe(ch)
	ch <- connectedDesc
	ch <- pendingDesc
	ch <- oldestDesc
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.events.Collect(ch)
	connected := 0.0
	if m.f.connected.Load() {
		connected = 1
	}
	ch <- prometheus.MustNewConstMetric(connectedDesc, prometheus.GaugeValue, connected)
	for _, s := range m.f.streams {
		status := s.status.Load()
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(status.Pending), s.name())
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, status.Oldest.Seconds(), s.name())
	}
}
