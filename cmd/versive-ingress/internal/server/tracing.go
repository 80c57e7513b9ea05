package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// startTracing configures OpenTelemetry by its own variables (OTEL_…). Without
// OTEL_TRACES_EXPORTER nothing of the SDK runs. Webhooks matter more than traces: what
// cannot be set up is left out, with a warning.
func (s *Server) startTracing(ctx context.Context) error {
	exporterName := os.Getenv("OTEL_TRACES_EXPORTER")
	if exporterName == "" || exporterName == "none" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil
	}
	s.unsetHarmful()
	otel.SetLogger(logr.FromSlogHandler(sdkLog{s.log.Handler()}))
	failures := rate.Sometimes{First: 3, Interval: time.Minute} // a collector may be away for long
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		failures.Do(func() { s.log.Warn("OpenTelemetry reported an error", "error", err) })
	}))
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		s.log.Warn("requests are not traced: the exporter cannot be used", "OTEL_TRACES_EXPORTER", exporterName, "error", err, "want", "otlp, console or none")
		return nil
	}
	// Later options take precedence: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("versive-ingress"), semconv.ServiceVersion(s.cfg.Version)),
		resource.WithFromEnv())
	if err != nil { // about has the rest
		s.log.Warn("OTEL_RESOURCE_ATTRIBUTES cannot be used completely", "error", err)
	}
	s.log.Info("requests are traced", "exporter", exporterName)
	s.tracing = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return nil
}

// unsetHarmful unsets variables whose values would make the SDK panic, spin or block.
func (s *Server) unsetHarmful() {
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		var err error
		switch {
		case value == "":
		case strings.HasPrefix(name, "OTEL_BSP_"):
			if n, parseErr := strconv.ParseUint(value, 10, 20); n == 0 || parseErr != nil {
				err = fmt.Errorf("%q: want a number from 1 to 1048575", value)
			}
		case strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && (strings.HasSuffix(name, "_CERTIFICATE") || strings.HasSuffix(name, "_KEY")):
			_, err = config.ReadFile(value)
		}
		if err != nil {
			s.log.Warn(name+" cannot be used; OpenTelemetry ignores it", "error", err)
			os.Unsetenv(name)
		}
	}
}

// sdkLog is the handler for the SDK's own log, which is about variables that it cannot
// use. Their values are left out, because they may be secrets.
type sdkLog struct{ slog.Handler }

// Handle implements [slog.Handler].
func (l sdkLog) Handle(ctx context.Context, r slog.Record) error {
	reduced := slog.NewRecord(r.Time, min(r.Level, slog.LevelWarn), "a variable of OpenTelemetry (OTEL_…) cannot be used", 0)
	reduced.AddAttrs(slog.String("problem", r.Message))
	return l.Handler.Handle(ctx, reduced)
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
