package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// adminRoutes serves the probes and the metrics.
func (i *ingress) adminRoutes(metrics *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := i.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		EnableOpenMetrics: true, // the format that has exemplars
	}))
	return mux
}

func (i *ingress) newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	factory := promauto.With(registry)
	factory.NewGauge(prometheus.GaugeOpts{
		Name:        "versive_ingress_build_info",
		Help:        "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "commit": revision(), "goversion": runtime.Version()},
	}).Set(1)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_ready",
		Help: "Whether events can be stored: 1 or 0, as /readyz answers.",
	}, func() float64 {
		if i.ready() != nil {
			return 0
		}
		return 1
	})
	return registry
}

func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Ask a running ingress whether it is ready",
		Long: `Ask the ingress at INGRESS_ADMIN_LISTEN whether it is ready (/readyz), for the
health check of a container. It gives up after 5 seconds.

EXIT STATUS
  0  ready: events can be stored
  1  not ready, as the error describes, or no ingress answers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.Read()
			if err != nil {
				return err
			}
			return health(cmd.Context(), settings)
		},
	}
}

func health(ctx context.Context, s config.Settings) error {
	address, err := s.AdminURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no ingress answers: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return errors.New("not ready: " + strings.TrimSpace(string(why)))
	}
	return nil
}
