package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, inflight *budget) *metrics {
	factory := promauto.With(r)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_inflight_bytes",
		Help: "Bytes of bodies held at the moment, by the length that was announced.",
	}, func() float64 { return float64(inflight.inUse()) })
	return &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "versive_ingress_requests_total",
			Help: "Requests by outcome, and for what is not stored as an event by reason.",
		}, []string{"outcome", "reason"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "versive_ingress_request_duration_seconds",
			Help:    "Time from a request's headers to its answer, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // 0.5 ms to 8 s, and over
		}, []string{"outcome"}),
	}
}

func (m *metrics) observe(outcome, reason string, elapsed time.Duration) {
	m.requests.WithLabelValues(outcome, reason).Inc()
	m.duration.WithLabelValues(outcome).Observe(elapsed.Seconds())
}
