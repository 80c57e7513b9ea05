package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// An outcome is a row of the contract's table for what is not stored: what the
// sender is told, and what logs and metrics call it.
type outcome struct {
	name   string
	status int
	detail string
	level  slog.Level
}

var (
	notFound            = &outcome{"not_found", http.StatusNotFound, "there is nothing at this path", slog.LevelInfo}
	methodNotAllowed    = &outcome{"method_not_allowed", http.StatusMethodNotAllowed, "webhooks are sent with POST", slog.LevelInfo}
	unsupportedEncoding = &outcome{"unsupported_encoding", http.StatusUnsupportedMediaType, "the body must not be encoded", slog.LevelInfo}
	tooLarge            = &outcome{"too_large", http.StatusRequestEntityTooLarge, "the body is over the limit", slog.LevelWarn}
	badRequest          = &outcome{"bad_request", http.StatusBadRequest, "", slog.LevelInfo}
	// One body for every reason: a forger learns nothing from it.
	unauthorized = &outcome{"unauthorized", http.StatusUnauthorized, "the request is not signed, or not by a sender that is known here", slog.LevelWarn}
	unavailable  = &outcome{"unavailable", http.StatusServiceUnavailable, "the event cannot be stored now; send it again", slog.LevelError}
)

// retryAfter is told to a sender that must come again. It is the sender's own
// shortest interval.
const retryAfter = 5 * time.Second

// A refusal is the error of every step: an outcome, why, and what to tell.
type refusal struct {
	*outcome
	reason string // one of a few words, for logs and metrics
	told   string // to the sender
	err    error  // for the log; may be nil
}

func (o *outcome) because(reason string) *refusal {
	return &refusal{outcome: o, reason: reason, told: o.detail}
}

func (r *refusal) telling(detail string) *refusal { r.told = detail; return r }

func (r *refusal) after(err error) *refusal { r.err = err; return r }

func (r *refusal) Error() string { return r.name + ": " + r.reason }

// A result is an event that is stored, or what is known of one that is not.
type result struct {
	id      string // "" until it is verified
	bytes   int
	receipt Receipt
	problem *schema.Error // why it is in the quarantine, or nil
}

// name returns what the answer, logs and metrics call the result.
func (r result) name() string {
	switch {
	case r.problem != nil:
		return "quarantined"
	case r.receipt.Duplicate:
		return "duplicate"
	default:
		return "stored"
	}
}

// answer tells the sender, the log, the metrics and the trace the same thing.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, result result, err error, started time.Time) {
	var name, reason string
	var status int
	var refused *refusal
	if err != nil {
		var ok bool
		if refused, ok = errors.AsType[*refusal](err); !ok { // what no step has foreseen is not stored
			refused = unavailable.because("internal").after(err)
		}
		name, reason, status = refused.name, refused.reason, refused.status
		writeProblem(w, refused)
	} else {
		name, status = result.name(), http.StatusOK
		if result.problem != nil {
			reason, status = string(result.problem.Reason), http.StatusAccepted
		}
		writeResult(w, result)
	}

	ctx, elapsed := r.Context(), h.cfg.Now().Sub(started)
	h.metrics.observe(ctx, name, reason, elapsed)
	// What was verified is always logged.
	if result.id != "" || refused == nil || h.sampler.admit(flood{refused.outcome, reason}) {
		h.log(ctx, result, refused, name, reason, elapsed)
	}
	endSpan(ctx, status, name, reason, result)
}

// log writes the one line about a request. refused is nil if it is stored.
func (h *Handler) log(ctx context.Context, result result, refused *refusal, name, reason string, elapsed time.Duration) {
	level := slog.LevelInfo
	attrs := make([]slog.Attr, 0, 10)
	if result.id != "" {
		attrs = append(attrs, slog.String("id", result.id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()))
	}
	if refused != nil {
		level = refused.level
		if refused.err != nil {
			attrs = append(attrs, slog.Any("error", refused.err))
		}
	} else {
		attrs = append(attrs,
			slog.String("stream", result.receipt.Stream),
			slog.Uint64("sequence", result.receipt.Sequence))
	}
	if result.id != "" {
		attrs = append(attrs, slog.Int("bytes", result.bytes))
	}
	if p := result.problem; p != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("detail", p.Description()))
	}
	attrs = append(attrs, slog.String("outcome", name), slog.Duration("duration", elapsed))
	if reason != "" {
		attrs = append(attrs, slog.String("reason", reason))
	}
	h.cfg.Logger.LogAttrs(ctx, level, "webhook", attrs...)
}

// writeResult writes the 2xx answer.
func writeResult(w http.ResponseWriter, r result) {
	if r.problem != nil {
		writeJSON(w, http.StatusAccepted, "application/json", struct {
			Outcome string        `json:"outcome"`
			Reason  schema.Reason `json:"reason"`
			Detail  string        `json:"detail"`
		}{r.name(), r.problem.Reason, r.problem.Description()})
		return
	}
	writeJSON(w, http.StatusOK, "application/json", struct {
		Outcome  string `json:"outcome"`
		Stream   string `json:"stream"`
		Sequence uint64 `json:"sequence"`
	}{r.name(), r.receipt.Stream, r.receipt.Sequence})
}

// writeProblem writes an answer of RFC 9457.
func writeProblem(w http.ResponseWriter, r *refusal) {
	switch r.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		// Or net/http reads on, for what may be left of the body, before it answers.
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	writeJSON(w, r.status, "application/problem+json", struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(r.status), r.status, r.told})
}

// Unavailable answers a request by 503 while there is no Handler to serve it.
func Unavailable(w http.ResponseWriter, r *http.Request) {
	limitBody(w)
	discardBody(r)
	writeProblem(w, unavailable.because("starting"))
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers only
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a sender that is gone asks again
}
