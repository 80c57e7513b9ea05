package publish

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// injectTrace gives a message the headers traceparent and tracestate of the
// span in ctx, if there is one: its consumers go on with the trace. They are
// the only headers that a message has from its caller's context.
func injectTrace(ctx context.Context, header nats.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, carrier(header))
	}
}

// carrier keeps the names of headers as they are: in lower case.
type carrier nats.Header

func (c carrier) Get(name string) string { return nats.Header(c).Get(name) }
func (c carrier) Set(name, value string) { nats.Header(c).Set(name, value) }

// Keys implements [propagation.TextMapCarrier]. Nothing asks for them.
func (c carrier) Keys() []string { return nil }
