package subscribe

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// tracer uses the program's tracer provider, if it has set one
// (otel.SetTracerProvider).
var tracer = otel.Tracer("versive-ingress/subscribe")

// startSpan begins the span of one attempt to handle m. It belongs to the trace
// that the ingress began with the webhook, as a child of the span that published
// m. It is linked to that span as well, as OpenTelemetry's messaging conventions
// recommend.
func (d *dispatcher) startSpan(ctx context.Context, m Message) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}
	published := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{
		"traceparent": m.Header.Get("traceparent"),
		"tracestate":  m.Header.Get("tracestate"),
	}))
	if published.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, published)
		options = append(options, trace.WithLinks(trace.Link{SpanContext: published}))
	}
	stream := d.source.stream(schema.KindEvent)
	ctx, span := tracer.Start(ctx, "process "+stream, options...)
	if span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingSystemKey.String("nats"),
			semconv.MessagingOperationTypeProcess,
			semconv.MessagingOperationName("process"),
			semconv.MessagingDestinationName(stream),
			semconv.MessagingConsumerGroupName(d.cfg.Durable),
			semconv.MessagingMessageID(m.ID),
			semconv.MessagingMessageBodySize(m.Size),
			attribute.Int64("versive_ingress.sequence", int64(m.Sequence)),
			attribute.Int64("versive_ingress.delivery", int64(m.Deliveries)),
		)
	}
	return ctx, span
}

// endSpan ends the span of an attempt. It leaves the error's text to the log.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetAttributes(semconv.ErrorType(err))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
