package server

import (
	"context"
	"fmt"
	"log/slog"
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
// OTEL_TRACES_EXPORTER it returns nil, and nothing of the SDK runs.
func startTracing(ctx context.Context, version string, log *slog.Logger) (*sdktrace.TracerProvider, error) {
	exporterName := os.Getenv("OTEL_TRACES_EXPORTER")
	if exporterName == "" || exporterName == "none" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER=%q: %w; want otlp, console or none", exporterName, err)
	}
	// Later options take precedence: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("versive-ingress"), semconv.ServiceVersion(version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces are not exported", "error", err)
	}))
	log.Info("requests are traced", "exporter", exporterName)
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)), nil
}

// stopTracing exports the last spans, if that does not take long.
func stopTracing(provider *sdktrace.TracerProvider) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
