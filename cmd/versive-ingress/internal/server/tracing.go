package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// startTracing sets OpenTelemetry up as its own variables (OTEL_…) say. Without
// OTEL_TRACES_EXPORTER nothing of the SDK runs.
func (s *Server) startTracing(ctx context.Context) error {
	exporterName := os.Getenv("OTEL_TRACES_EXPORTER")
	if exporterName == "" || exporterName == "none" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("OTEL_TRACES_EXPORTER=%q: %w; want otlp, console or none", exporterName, err)
	}
	// Later options take precedence: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("versive-ingress"), semconv.ServiceVersion(s.cfg.Version)),
		resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		s.log.Warn("traces are not exported", "error", err)
	}))
	s.log.Info("requests are traced", "exporter", exporterName)
	s.tracing = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return nil
}

// stopTracing exports the last spans, if that does not take long.
func (s *Server) stopTracing() {
	if s.tracing == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.tracing.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
