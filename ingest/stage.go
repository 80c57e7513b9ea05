package ingest

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// A stage is a step of a request that is timed, and a span of its own where
// the request is traced.
type stage int

const (
	stageRead stage = iota
	stageVerify
	stageNormalize
	stagePublish
)

var stageNames = [...]string{"read", "verify", "normalize", "publish"}

// A timer runs while a stage does.
type timer struct {
	h       *Handler
	stage   stage
	started time.Time
	ctx     context.Context
	span    trace.Span // nil if the request is not traced
}

// begin starts a stage. Nothing is allocated for it unless requests are traced.
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

// end stops the timer. The pointer is to the stage's error, so that end can be
// deferred.
func (t timer) end(err *error) {
	elapsed, histogram := t.h.cfg.Now().Sub(t.started), t.h.metrics.stages[t.stage]
	if t.span == nil {
		histogram.Observe(elapsed.Seconds())
		return
	}
	observe(t.ctx, histogram, elapsed)
	endStage(t.span, *err)
}

// observe adds a duration, with the trace that it is from as an exemplar.
func observe(ctx context.Context, o prometheus.Observer, elapsed time.Duration) {
	span := trace.SpanContextFromContext(ctx)
	if e, ok := o.(prometheus.ExemplarObserver); ok && span.IsSampled() {
		e.ObserveWithExemplar(elapsed.Seconds(), prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	o.Observe(elapsed.Seconds())
}
