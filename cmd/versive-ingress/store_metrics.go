package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish/embedded"
)

var (
	storeDesc    = prometheus.NewDesc("versive_ingress_store_bytes", "Bytes that the embedded broker's streams take on the disk.", nil, nil)
	maxStoreDesc = prometheus.NewDesc("versive_ingress_store_max_bytes", "Bytes that they may take.", nil, nil)
)

// storeMetrics tells Prometheus how full the embedded broker is.
type storeMetrics struct{ broker *embedded.Broker }

func (i *ingress) registerStore(metrics prometheus.Registerer) {
	if i.broker != nil {
		metrics.MustRegister(storeMetrics{i.broker})
	}
}

// Describe implements [prometheus.Collector].
func (m storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- storeDesc
	ch <- maxStoreDesc
}

// Collect implements [prometheus.Collector]. While the broker does not answer,
// there is nothing to tell.
func (m storeMetrics) Collect(ch chan<- prometheus.Metric) {
	used, limit, err := m.broker.Usage()
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(storeDesc, prometheus.GaugeValue, float64(used))
	ch <- prometheus.MustNewConstMetric(maxStoreDesc, prometheus.GaugeValue, float64(limit))
}
