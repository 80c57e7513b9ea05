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

// An outcome is what becomes of a request that is not stored: a row of the HTTP
// contract's table. Logs and metrics use its name.
type outcome struct {
	name   string
	status int
	detail string // for the sender; a rejection may give a more specific one
	level  slog.Level
}

var (
	notFound            = &outcome{"not_found", http.StatusNotFound, "there is nothing at this path", slog.LevelInfo}
	methodNotAllowed    = &outcome{"method_not_allowed", http.StatusMethodNotAllowed, "webhooks are sent with POST", slog.LevelInfo}
	unsupportedEncoding = &outcome{"unsupported_encoding", http.StatusUnsupportedMediaType, "the body must not be encoded", slog.LevelInfo}
	tooLarge            = &outcome{"too_large", http.StatusRequestEntityTooLarge, "the body is over the limit", slog.LevelWarn}
	badRequest          = &outcome{"bad_request", http.StatusBadRequest, "", slog.LevelInfo}
	// One body for every reason, so that it helps no forger.
	unauthorized = &outcome{"unauthorized", http.StatusUnauthorized, "the request is not signed, or not by a sender that is known here", slog.LevelWarn}
	unavailable  = &outcome{"unavailable", http.StatusServiceUnavailable, "the event cannot be stored now; send it again", slog.LevelError}
)

// retryAfter is the delay that a 503 asks for. It equals the shortest retry
// interval of the sender.
const retryAfter = 5 * time.Second

// A rejection is the error that every step returns.
type rejection struct {
	*outcome
	reason string // for logs and metrics; one of a small, fixed set
	detail string // for the sender
	err    error  // for the log; may be nil
}

func reject(o *outcome, reason string) *rejection {
	return &rejection{outcome: o, reason: reason, detail: o.detail}
}

func (r *rejection) withDetail(detail string) *rejection { r.detail = detail; return r }

func (r *rejection) wrap(err error) *rejection { r.err = err; return r }

func (r *rejection) Error() string { return r.name + ": " + r.reason }

// A result describes an event that is stored, or what is known about one that is
// not.
type result struct {
	id      string // "" until it is verified
	bytes   int    // length of the body
	receipt schema.Receipt
	problem *schema.Error // why the event is in the quarantine, or nil
}

// name returns the outcome as the answer, logs and metrics name it.
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

// answer writes the response, and reports the same outcome and reason to the
// log, the metrics and the trace.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, result result, err error, started time.Time) {
	var name, reason string
	var status int
	var rejected *rejection
	if err != nil {
		var ok bool
		if rejected, ok = errors.AsType[*rejection](err); !ok { // unforeseen, so the event is not stored
			rejected = reject(unavailable, "internal").wrap(err)
		}
		name, reason, status = rejected.name, rejected.reason, rejected.status
		writeProblem(w, rejected)
	} else {
		name, status = result.name(), http.StatusOK
		if result.problem != nil {
			reason, status = string(result.problem.Reason), http.StatusAccepted
		}
		writeResult(w, result)
	}

	ctx, elapsed := r.Context(), h.cfg.Now().Sub(started)
	h.metrics.observe(ctx, name, reason, elapsed)
	// Verified requests are always logged.
	if result.id != "" || rejected == nil || h.sampler.admit(samplingKey{rejected.outcome, reason}) {
		h.log(ctx, result, rejected, name, reason, elapsed)
	}
	endSpan(ctx, status, name, reason, result)
}

// log writes a request's log line. rejected is nil if the event is stored.
func (h *Handler) log(ctx context.Context, result result, rejected *rejection, name, reason string, elapsed time.Duration) {
	level := slog.LevelInfo
	attrs := make([]slog.Attr, 0, 10)
	if result.id != "" {
		attrs = append(attrs, slog.String("id", result.id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()))
	}
	if rejected != nil {
		level = rejected.level
		if rejected.err != nil {
			attrs = append(attrs, slog.Any("error", rejected.err))
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

// writeResult writes a 2xx response.
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

// writeProblem writes an error response in the format of RFC 9457.
func writeProblem(w http.ResponseWriter, r *rejection) {
	switch r.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
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
	writeProblem(w, reject(unavailable, "starting"))
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
