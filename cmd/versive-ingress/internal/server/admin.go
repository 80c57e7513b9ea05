package server

import (
	"context"
	"fmt"
	"net/http"
	"runtime"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"versive-ingress/cmd/versive-ingress/internal/page"
	"versive-ingress/publish/embedded"
)

func (s *Server) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{
		EnableOpenMetrics: true, // the format that has exemplars
	}))
	s.page.Register(mux)
	return mux
}

// newPage returns the status page.
func (s *Server) newPage() *page.Page {
	return page.New(page.Config{
		Stream:  s.settings.Stream,
		Subject: s.settings.Subject,
		Version: s.cfg.Version,
		Metrics: s.metrics,
		Ready:   s.ready,
		JetStream: func() jetstream.JetStream {
			if s.handler.Load() == nil {
				return nil
			}
			return s.publisher.JetStream()
		},
	})
}

// startPage starts the counts and the checks that the page shows.
func (s *Server) startPage(context.Context) error {
	s.tasks.Go(func() { s.page.Run(s.background, s.settings) })
	return nil
}

// newRegistry returns a registry with the metrics of the process as a whole.
func (s *Server) newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	factory := promauto.With(registry)
	factory.NewGauge(prometheus.GaugeOpts{
		Name:        "versive_ingress_build_info",
		Help:        "Always 1; the labels describe what is running.",
		ConstLabels: prometheus.Labels{"version": s.cfg.Version, "commit": s.cfg.Commit, "goversion": runtime.Version()},
	}).Set(1)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_ready",
		Help: "Whether events can be stored: 1 or 0, as /readyz answers.",
	}, func() float64 {
		if s.ready() != nil {
			return 0
		}
		return 1
	})
	factory.NewCounterFunc(prometheus.CounterOpts{
		Name: "versive_ingress_log_lines_dropped_total",
		Help: "Lines of the log that were dropped, because nothing read the standard error in time.",
	}, func() float64 {
		if s.cfg.LogDropped == nil {
			return 0
		}
		return float64(s.cfg.LogDropped())
	})
	return registry
}

var (
	storeDesc    = prometheus.NewDesc("versive_ingress_store_bytes", "Bytes that the embedded broker's streams take on the disk.", nil, nil)
	maxStoreDesc = prometheus.NewDesc("versive_ingress_store_max_bytes", "Bytes that they may take.", nil, nil)
)

// storeMetrics collects how full the embedded broker is.
type storeMetrics struct{ broker *embedded.Broker }

// Describe implements [prometheus.Collector].
func (m storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- storeDesc
	ch <- maxStoreDesc
}

// Collect implements [prometheus.Collector]. There are no metrics while the broker
// restarts.
func (m storeMetrics) Collect(ch chan<- prometheus.Metric) {
	used, limit, err := m.broker.Usage()
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(storeDesc, prometheus.GaugeValue, float64(used))
	ch <- prometheus.MustNewConstMetric(maxStoreDesc, prometheus.GaugeValue, float64(limit))
}
