package ingest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	stages   [len(stageNames)]prometheus.Observer
	bodies   prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, inflight *budget, secrets *atomic.Pointer[keyring]) *metrics {
	if r != nil {
		r.MustRegister(secretMetrics{secrets})
	}
	factory := promauto.With(r)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_inflight_bytes",
		Help: "Bytes of buffers that currently hold bodies.",
	}, func() float64 { return float64(inflight.inUse()) })
	factory.NewGauge(prometheus.GaugeOpts{
		Name: "versive_ingress_inflight_max_bytes",
		Help: "Limit of inflight_bytes; beyond it the slowest uploads are answered 503.",
	}).Set(float64(inflight.max))
	stages := factory.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "versive_ingress_stage_duration_seconds",
		Help:    "Duration of each step of a request: read the body, verify, normalize, publish.",
		Buckets: prometheus.ExponentialBuckets(0.00001, 4, 11), // 10 µs to 10 s
	}, []string{"stage"})
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "versive_ingress_requests_total",
			Help: "Requests by outcome and, if they were not stored as an event, by reason.",
		}, []string{"outcome", "reason"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "versive_ingress_request_duration_seconds",
			Help:    "Time from the receipt of a request's headers to its answer, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // 0.5 ms to 8 s
		}, []string{"outcome"}),
		bodies: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "versive_ingress_body_bytes",
			Help:    "Size of verified bodies.",
			Buckets: prometheus.ExponentialBuckets(1<<10, 4, 8), // 1 KiB to 16 MiB
		}),
	}
	for s, name := range stageNames {
		m.stages[s] = stages.WithLabelValues(name)
	}
	return m
}

func (m *metrics) observe(ctx context.Context, outcome, reason string, elapsed time.Duration) {
	m.requests.WithLabelValues(outcome, reason).Inc()
	observe(ctx, m.duration.WithLabelValues(outcome), elapsed)
}
