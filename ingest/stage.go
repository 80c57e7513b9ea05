package ingest

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// A stage is a step of a request that has its own duration metric and, with
// tracing, its own span.
type stage int

const (
	stageRead stage = iota
	stageVerify
	stageNormalize
	stagePublish
)

var stageNames = [...]string{"read", "verify", "normalize", "publish"}

// A timer measures a stage.
type timer struct {
	h       *Handler
	stage   stage
	started time.Time
	ctx     context.Context
	span    trace.Span // nil without tracing
}

// begin starts a stage. It allocates nothing without tracing.
func (h *Handler) begin(ctx context.Context, s stage) timer {
	t := timer{h: h, stage: s, started: h.cfg.Now(), ctx: ctx}
	if h.cfg.Tracer != nil {
		kind := trace.SpanKindInternal
		if s == stagePublish {
			kind = trace.SpanKindProducer
		}
		t.ctx, t.span = h.cfg.Tracer.Start(ctx, stageNames[s], trace.WithSpanKind(kind))
	}
	return t
}

// end stops the timer and ends the span. It takes a pointer to the stage's error
// so that it can be deferred.
func (t timer) end(err *error) {
	elapsed, histogram := t.h.cfg.Now().Sub(t.started), t.h.metrics.stages[t.stage]
	if t.span == nil {
		histogram.Observe(elapsed.Seconds())
		return
	}
	observe(t.ctx, histogram, elapsed)
	endStage(t.span, *err)
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
