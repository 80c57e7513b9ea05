package ingest

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// A request's span has the same facts as its log line and nothing that a forger
// controls: no path, header or client address.
var (
	outcomeKey  = attribute.Key("versive_ingress.outcome")
	reasonKey   = attribute.Key("versive_ingress.reason")
	sequenceKey = attribute.Key("versive_ingress.sequence")
)

// startSpan starts the request's span, the root of a new trace, if there is a
// tracer. The traceparent header is not signed, so it neither determines the
// trace ID nor whether the trace is sampled.
func (h *Handler) startSpan(r *http.Request) *http.Request {
	if h.cfg.Tracer == nil {
		return r
	}
	name, method := "HTTP", semconv.HTTPRequestMethodOther
	if r.Method == http.MethodPost {
		name, method = http.MethodPost, semconv.HTTPRequestMethodPost
	}
	attributes := []attribute.KeyValue{method, semconv.URLScheme("http")}
	if r.TLS != nil {
		attributes[1] = semconv.URLScheme("https")
	}
	if r.URL.Path == h.cfg.Path {
		name += " " + h.cfg.Path
		attributes = append(attributes, semconv.HTTPRoute(h.cfg.Path), semconv.URLPath(h.cfg.Path))
	}
	ctx, _ := h.cfg.Tracer.Start(r.Context(), name,
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	return r.WithContext(ctx)
}

// linkCaller links the span of a verified request to the span in its traceparent
// header, such as that of a reverse proxy. The link is only a hint, because the
// signature does not cover the header.
func linkCaller(r *http.Request) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
	caller := trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{}) // free text
	if caller.IsValid() {
		span.AddLink(trace.Link{SpanContext: caller})
	}
}

// endSpan ends the request's span and records the answer.
func endSpan(ctx context.Context, status int, outcome, reason string, r result) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(semconv.HTTPResponseStatusCode(status), outcomeKey.String(outcome))
	if reason != "" {
		span.SetAttributes(reasonKey.String(reason))
	}
	if r.id != "" {
		span.SetAttributes(semconv.MessagingMessageID(r.id), semconv.HTTPRequestBodySize(r.bytes))
	}
	if status >= http.StatusInternalServerError {
		span.SetAttributes(semconv.ErrorTypeKey.String(reason))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// endStage ends a stage's span. A non-nil err marks it as failed.
func endStage(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetAttributes(semconv.ErrorTypeKey.String(reasonOf(err)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// describeMessage adds the message's attributes to the publish span, the one that
// the message propagates to its consumers.
func describeMessage(ctx context.Context, m schema.Message) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingSystemKey.String("nats"),
			semconv.MessagingOperationTypeSend,
			semconv.MessagingOperationName("publish"),
			semconv.MessagingMessageID(m.ID),
			semconv.MessagingMessageBodySize(len(m.Data)),
		)
	}
}

func describeReceipt(ctx context.Context, r schema.Receipt) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(semconv.MessagingDestinationName(r.Stream), sequenceKey.Int64(int64(r.Sequence)))
	}
}

// reasonOf returns why a step failed: one of a small, fixed set of words.
func reasonOf(err error) string {
	if rejected, ok := errors.AsType[*rejection](err); ok {
		return rejected.reason
	}
	if problem, ok := errors.AsType[*schema.Error](err); ok {
		return string(problem.Reason)
	}
	var named interface{ Reason() string }
	if errors.As(err, &named) {
		return named.Reason()
	}
	return "publishing"
}
