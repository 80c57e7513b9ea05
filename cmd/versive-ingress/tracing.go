package main

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
	oteltrace "go.opentelemetry.io/otel/trace"
)

// tracing exports spans. nil exports none.
type tracing struct{ provider *sdktrace.TracerProvider }

// startTracing sets OpenTelemetry up by its own variables (OTEL_…). Without
// OTEL_TRACES_EXPORTER it returns nil, and nothing of the SDK runs.
func startTracing(ctx context.Context, log *slog.Logger) (*tracing, error) {
	exporterName := os.Getenv("OTEL_TRACES_EXPORTER")
	if exporterName == "" || exporterName == "none" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER=%q: %w; want otlp, console or none", exporterName, err)
	}
	// The latter wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
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
	return &tracing{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}, nil
}

func (t *tracing) tracer() oteltrace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer("versive-ingress/ingest")
}

// stop exports what is left, if that does not take long.
func (t *tracing) stop() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
