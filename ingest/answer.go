package ingest

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"go.opentelemetry.io/otel/trace"

	"versive-ingress/schema"
)

// An outcome is what becomes of a request: a row of the HTTP contract's table.
// Logs and metrics use its name.
type outcome struct {
	name   string
	status int
	detail string // for the sender; a result may have a more specific one
	level  slog.Level
}

var (
	stored      = &outcome{"stored", http.StatusOK, "", slog.LevelInfo}
	duplicate   = &outcome{"duplicate", http.StatusOK, "", slog.LevelInfo}
	quarantined = &outcome{"quarantined", http.StatusAccepted, "", slog.LevelWarn}

	notFound            = &outcome{"not_found", http.StatusNotFound, "there is nothing at this path", slog.LevelInfo}
	methodNotAllowed    = &outcome{"method_not_allowed", http.StatusMethodNotAllowed, "webhooks are sent with POST", slog.LevelInfo}
	unsupportedEncoding = &outcome{"unsupported_encoding", http.StatusUnsupportedMediaType, "the body must not be encoded", slog.LevelInfo}
	tooLarge            = &outcome{"too_large", http.StatusRequestEntityTooLarge, "the body is over the limit", slog.LevelWarn}
	badRequest          = &outcome{"bad_request", http.StatusBadRequest, "", slog.LevelInfo}
	// The answer is the same for every reason: it gives a forger no hint.
	unauthorized = &outcome{"unauthorized", http.StatusUnauthorized, "the request is not signed, or not by a sender that is known here", slog.LevelWarn}
	unavailable  = &outcome{"unavailable", http.StatusServiceUnavailable, "the event cannot be stored now; send it again", slog.LevelError}
)

// retryAfter is the delay that a 503 asks for. It equals the shortest retry
// interval of the sender.
const retryAfter = 5 * time.Second

// A result is an outcome with its details. It is the error that every step
// returns if it rejects the request.
type result struct {
	*outcome
	reason       string         // for logs and metrics; one of a small, fixed set, or ""
	detail       string         // for the sender
	err          error          // for the log; may be nil
	skew         float64        // for the log: seconds by which a rejected timestamp is ahead of the clock, or 0
	id           string         // "" until it is verified
	organization string         // of the secret that has verified it; "" if that has none
	bytes        int            // length of the verified body
	receipt      schema.Receipt // of what is stored
}

func reject(o *outcome, reason string) *result {
	return &result{outcome: o, reason: reason, detail: o.detail}
}

func (r *result) withDetail(detail string) *result { r.detail = detail; return r }

func (r *result) withSkew(seconds float64) *result { r.skew = seconds; return r }

func (r *result) wrap(err error) *result { r.err = err; return r }

func (r *result) isRejected() bool { return r.status >= http.StatusBadRequest }

func (r *result) Error() string { return r.name + ": " + r.reason }

// answer writes the response, and reports the same outcome and reason to the
// log, the metrics and the trace.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, result *result, started time.Time) {
	writeResult(w, result)
	ctx, elapsed := r.Context(), h.cfg.Now().Sub(started)
	h.metrics.observe(ctx, result, elapsed)
	// Verified requests are always logged.
	if result.id != "" || h.sampler.admit(samplingKey{result.outcome, result.reason}) {
		h.log(ctx, result, elapsed)
	}
	endSpan(ctx, result)
}

func (h *Handler) log(ctx context.Context, r *result, elapsed time.Duration) {
	attrs := make([]slog.Attr, 0, 11)
	if r.id != "" {
		attrs = append(attrs, slog.String("id", r.id))
	}
	if r.organization != "" {
		attrs = append(attrs, slog.String("organization", r.organization))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()))
	}
	if r.err != nil {
		attrs = append(attrs, slog.Any("error", r.err))
	}
	if !r.isRejected() {
		attrs = append(attrs, slog.String("stream", r.receipt.Stream), slog.Uint64("sequence", r.receipt.Sequence))
	}
	if r.id != "" {
		attrs = append(attrs, slog.Int("bytes", r.bytes))
	}
	if r.outcome == quarantined {
		attrs = append(attrs, slog.String("detail", r.detail))
	}
	attrs = append(attrs, slog.String("outcome", r.name), slog.String("duration", elapsed.String()))
	if r.reason != "" {
		attrs = append(attrs, slog.String("reason", r.reason))
	}
	if r.skew != 0 {
		attrs = append(attrs, slog.Float64("skew_seconds", r.skew))
	}
	h.cfg.Logger.LogAttrs(ctx, r.level, "webhook", attrs...)
}

// writeResult writes the response. That of a rejection has the format of RFC 9457.
func writeResult(w http.ResponseWriter, r *result) {
	switch r.outcome {
	case quarantined:
		writeJSON(w, r.status, "application/json", struct {
			Outcome string `json:"outcome"`
			Reason  string `json:"reason"`
			Detail  string `json:"detail"`
		}{r.name, r.reason, r.detail})
		return
	case stored, duplicate:
		writeJSON(w, r.status, "application/json", struct {
			Outcome  string `json:"outcome"`
			Stream   string `json:"stream"`
			Sequence uint64 `json:"sequence"`
		}{r.name, r.receipt.Stream, r.receipt.Sequence})
		return
	case methodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case unavailable:
		// Without this, net/http reads the rest of the body before it answers.
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	writeJSON(w, r.status, "application/problem+json", struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(r.status), r.status, r.detail})
}

// Unavailable is an [http.HandlerFunc] that answers 503 with a Retry-After
// header. It serves requests until there is a Handler.
func Unavailable(w http.ResponseWriter, r *http.Request) {
	limitBody(w)
	discardBody(r)
	writeResult(w, reject(unavailable, "starting"))
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // v has only strings and numbers
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a sender that has disconnected resends the event
}
