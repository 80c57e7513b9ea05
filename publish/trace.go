package publish

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// injectTrace adds the traceparent and tracestate headers of the span in ctx, if
// there is one, so that consumers continue the trace. Their names are in lower
// case, which http.Header and propagation.HeaderCarrier would change.
func injectTrace(ctx context.Context, header nats.Header) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	for name, value := range carrier {
		header[name] = []string{value}
	}
}
