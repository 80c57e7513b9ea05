package ingest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// stages are the steps of a request that have their own duration metric and, with
// tracing, their own span.
var stages = [...]string{"read", "verify", "normalize", "publish"}

// measure runs a stage with a context that has its span, if there is a tracer. The
// stage's error marks the span as failed.
func (h *Handler) measure(ctx context.Context, stage string, run func(context.Context) error) (err error) {
	started := h.cfg.Now()
	if h.cfg.Tracer != nil {
		kind := trace.SpanKindInternal
		if stage == "publish" {
			kind = trace.SpanKindProducer
		}
		var span trace.Span
		ctx, span = h.cfg.Tracer.Start(ctx, stage, trace.WithSpanKind(kind))
		defer func() {
			if err != nil {
				fail(span, reasonOf(err))
			}
			span.End()
		}()
	}
	defer func() { observe(ctx, h.metrics.stages[stage], h.cfg.Now().Sub(started)) }()
	return run(ctx)
}

func fail(span trace.Span, reason string) {
	span.SetAttributes(semconv.ErrorTypeKey.String(reason))
	span.SetStatus(codes.Error, "")
}

// reasonOf returns why a step failed: one of a small, fixed set of words.
func reasonOf(err error) string {
	if rejected, ok := errors.AsType[*result](err); ok {
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

// startSpan starts the request's span, the root of a new trace, if there is a
// tracer. The span has the same facts as the request's log line and nothing that a
// forger controls: no path, header or client address. The traceparent header is
// not signed, so it neither determines the trace ID nor whether the trace is
// sampled.
func (h *Handler) startSpan(r *http.Request) *http.Request {
	if h.cfg.Tracer == nil {
		return r
	}
	name, method, scheme := "HTTP", semconv.HTTPRequestMethodOther, "http"
	if r.Method == http.MethodPost {
		name, method = http.MethodPost, semconv.HTTPRequestMethodPost
	}
	if r.TLS != nil {
		scheme = "https"
	}
	attributes := []attribute.KeyValue{method, semconv.URLScheme(scheme)}
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
func endSpan(ctx context.Context, r *result) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(semconv.HTTPResponseStatusCode(r.status), attribute.String("versive_ingress.outcome", r.name))
	if r.reason != "" {
		span.SetAttributes(attribute.String("versive_ingress.reason", r.reason))
	}
	if r.id != "" {
		span.SetAttributes(semconv.MessagingMessageID(r.id), semconv.HTTPRequestBodySize(r.bytes))
	}
	if r.organization != "" {
		span.SetAttributes(attribute.String("versive_ingress.organization", r.organization))
	}
	if r.status >= http.StatusInternalServerError {
		fail(span, r.reason)
	}
	span.End()
}

// describePublish adds the message's attributes to the publish span, the one that
// the message propagates to its consumers.
func describePublish(ctx context.Context, m schema.Message, r schema.Receipt) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingSystemKey.String("nats"),
			semconv.MessagingOperationTypeSend,
			semconv.MessagingOperationName("publish"),
			semconv.MessagingMessageID(m.ID),
			semconv.MessagingMessageBodySize(len(m.Data)),
		)
		if r.Sequence > 0 {
			span.SetAttributes(semconv.MessagingDestinationName(r.Stream), attribute.Int64("versive_ingress.sequence", int64(r.Sequence)))
		}
	}
}

// reasons are those that a request can have with each outcome.
var reasons = map[*outcome][]string{
	stored:              {""},
	duplicate:           {""},
	quarantined:         {string(schema.Malformed), string(schema.UnsupportedType), string(schema.Invalid)},
	badRequest:          {"repeated_header", "id", "signature_length", "body_cut_short"},
	unauthorized:        {"missing_header", "timestamp_malformed", "timestamp_too_old", "timestamp_too_new", "signature"},
	notFound:            {"path"},
	methodNotAllowed:    {"method"},
	tooLarge:            {"content_length", "body"},
	unsupportedEncoding: {"content_encoding"},
	unavailable:         {"unreachable", "no_answer", "full", "overloaded", "refused", "too_much_in_flight", "shutting_down", "panic", "publishing"},
}

type metrics struct {
	requests *prometheus.CounterVec
	rejected *prometheus.GaugeVec
	duration *prometheus.HistogramVec
	stages   map[string]prometheus.Observer
	bodies   prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, inflight *budget, secrets *atomic.Pointer[keyring]) *metrics {
	if r != nil {
		r.MustRegister(secretCollector{secrets})
	}
	factory := promauto.With(r)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_inflight_bytes",
		Help: "Bytes of buffers that currently hold bodies.",
	}, func() float64 { return float64(inflight.inUse()) })
	factory.NewGauge(prometheus.GaugeOpts{
		Name: "versive_ingress_inflight_max_bytes",
		Help: "Limit of inflight_bytes; beyond it the slowest uploads are answered 503.",
	}).Set(float64(inflight.max))
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "versive_ingress_requests_total",
			Help: "Requests by outcome and, if they were not stored as an event, by reason.",
		}, []string{"outcome", "reason"}),
		rejected: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "versive_ingress_last_unauthorized_timestamp_seconds",
			Help: "When a request was last answered 401, by reason; 0 if none was since the start.",
		}, []string{"reason"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "versive_ingress_request_duration_seconds",
			Help:    "Time from the receipt of a request's headers to its answer, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // 0.5 ms to 8 s
		}, []string{"outcome"}),
		stages: make(map[string]prometheus.Observer),
		bodies: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "versive_ingress_body_bytes",
			Help:    "Size of verified bodies.",
			Buckets: prometheus.ExponentialBuckets(1<<10, 4, 8), // 1 KiB to 16 MiB
		}),
	}
	byStage := factory.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "versive_ingress_stage_duration_seconds",
		Help:    "Duration of each step of a request: read the body, verify, normalize, publish.",
		Buckets: prometheus.ExponentialBuckets(0.00001, 4, 11), // 10 µs to 10 s
	}, []string{"stage"})
	for _, stage := range stages {
		m.stages[stage] = byStage.WithLabelValues(stage)
	}
	for outcome, list := range reasons { // so that increase() sees the first one
		for _, reason := range list {
			m.requests.WithLabelValues(outcome.name, reason)
			if outcome == unauthorized {
				m.rejected.WithLabelValues(reason)
			}
		}
	}
	return m
}

func (m *metrics) observe(ctx context.Context, r *result, elapsed time.Duration) {
	m.requests.WithLabelValues(r.name, r.reason).Inc()
	if r.outcome == unauthorized {
		m.rejected.WithLabelValues(r.reason).SetToCurrentTime()
	}
	observe(ctx, m.duration.WithLabelValues(r.name), elapsed)
}

// observe records a duration, with its trace as an exemplar if that is sampled.
func observe(ctx context.Context, o prometheus.Observer, elapsed time.Duration) {
	span := trace.SpanContextFromContext(ctx)
	if e, ok := o.(prometheus.ExemplarObserver); ok && span.IsSampled() {
		e.ObserveWithExemplar(elapsed.Seconds(), prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	o.Observe(elapsed.Seconds())
}

// A secretCollector collects the metrics of the current secrets. A removed secret has
// none.
type secretCollector struct{ *atomic.Pointer[keyring] }

// Describe describes nothing, because the metrics of a secret with an organization
// have a label more than those of another.
func (secretCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c secretCollector) Collect(ch chan<- prometheus.Metric) {
	for i, s := range *c.Load() {
		labels := prometheus.Labels{"position": strconv.Itoa(i + 1), "fingerprint": s.fingerprint}
		if s.organization != "" {
			labels["organization"] = s.organization
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("versive_ingress_secret_verified_total",
			"Requests verified by a signing secret, by its position in the settings, its fingerprint and, if it names one, its organization.", nil, labels),
			prometheus.CounterValue, float64(s.verified.Load()))
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("versive_ingress_secret_last_verified_timestamp_seconds",
			"When a signing secret last verified a request; 0 if it has not since the start.", nil, labels),
			prometheus.GaugeValue, float64(s.last.Load())/1000)
	}
}
