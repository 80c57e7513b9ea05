package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"versive-ingress/schema"
)

// Publisher stores a message durably and once. It must be safe for concurrent
// use.
//
// Publish returns a receipt only when the message is durably in its stream,
// whether by this call or an earlier one. After an error the message may or may
// not be stored, and publishing it again must be safe. It must return within a
// bounded time, even if ctx is never done. It may read m afterwards.
// An error with a method Reason() string provides the reason for logs and metrics,
// which must be one of a small, fixed set.
type Publisher interface {
	Publish(ctx context.Context, m schema.Message) (schema.Receipt, error)
}

// Config configures a Handler. A field must be set unless its comment says what
// its zero value does.
type Config struct {
	Path        string        // the only path served, in decoded form
	Secrets     []string      // at least one; any of them verifies, and the one that does names the organization; see CheckSecret and Handler.SetSecrets
	Tolerance   time.Duration // largest difference between the signed timestamp and the clock
	MaxBody     int64         // largest body, in bytes
	MaxInflight int64         // bytes of all bodies in memory; at least 4/3 of MaxBody
	Publisher   Publisher

	// Verified, if not nil, is called with a request's context after its signature
	// is verified and before anything is stored. Calls can be concurrent.
	Verified func(context.Context)

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil registers nothing
	Tracer  trace.Tracer          // nil disables tracing, at no cost
	Now     func() time.Time      // nil is time.Now
}

// BodyTimeout bounds how long a body may take to arrive, including the wait of a
// body over 64 KiB for its turn to be processed. Together with the Publisher's
// own bound it must stay below 15 seconds, the sender's timeout for an answer.
const BodyTimeout = 5 * time.Second

// Handler is the webhook endpoint. It is safe for concurrent use.
type Handler struct {
	cfg       Config
	secrets   atomic.Pointer[keyring]
	secretsMu sync.Mutex // serializes SetSecrets
	inflight  *budget
	// processing bounds the bytes of bodies over 64 KiB that are verified,
	// normalized and stored concurrently, because each is copied several times.
	processing *semaphore.Weighted
	draining   atomic.Bool
	metrics    *metrics
	sampler    *sampler
	tarpit     tarpit
}

// New returns a Handler. The error names the position of a secret that
// [CheckSecret] does not accept, without quoting it.
func New(cfg Config) (*Handler, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	secrets, err := newKeyring(cfg.Secrets, nil)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		cfg:        cfg,
		inflight:   newBudget(cfg.MaxInflight),
		tarpit:     newTarpit(),
		processing: semaphore.NewWeighted(max(cfg.MaxInflight/16, cfg.MaxBody)),
	}
	h.secrets.Store(&secrets)
	h.metrics = newMetrics(cfg.Metrics, h.inflight, &h.secrets)
	h.sampler = newSampler(cfg.Logger)
	return h, nil
}

// Drain makes the Handler answer 503 to every new request. Requests in flight
// are completed.
func (h *Handler) Drain() { h.draining.Store(true) }

// ServeHTTP implements [http.Handler]. It answers a webhook as docs/http.md
// describes.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := h.cfg.Now()
	limitBody(w)
	r = h.startSpan(r)
	result := h.handleSafely(w, r, time.Now().Add(BodyTimeout))
	if result.isRejected() {
		discardBody(r)
		if result.outcome != unavailable {
			h.tarpit.wait(r.Context())
		}
	}
	h.answer(w, r, result, started)
}

// handleSafely turns a panic into a 503, so that the sender resends the event,
// and logs the stack. It does not log the panic's value, which may quote the body.
func (h *Handler) handleSafely(w http.ResponseWriter, r *http.Request, deadline time.Time) (done *result) {
	defer func() {
		if recover() != nil {
			done = reject(unavailable, "panic").wrap(errors.New(string(debug.Stack())))
		}
	}()
	done, err := h.handle(w, r, deadline)
	if err != nil {
		return err.(*result) // as of every step
	}
	return done
}

// handle takes a request through all steps. It does not read the body of a
// request that its headers rule out.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request, deadline time.Time) (*result, error) {
	ctx := r.Context()
	if err := h.checkRequest(r); err != nil {
		return nil, err
	}
	claim, err := readClaim(r.Header)
	if err != nil {
		return nil, err
	}
	if err := claim.checkTimestamp(h.cfg.Now(), h.cfg.Tolerance); err != nil {
		return nil, err
	}
	if r.ContentLength > h.cfg.MaxBody {
		return nil, reject(tooLarge, "content_length")
	}

	upload := newUpload(w, r.ContentLength, h.cfg.MaxBody)
	defer h.inflight.release(upload) // nothing refers to the body once it is stored or rejected
	var body []byte
	err = h.measure(ctx, "read", func(context.Context) (err error) {
		body, err = h.readBody(w, r, upload)
		return err
	})
	if err != nil {
		return nil, err
	}
	if size := int64(len(body)); size > smallBody {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		if h.processing.Acquire(ctx, size) != nil {
			return nil, reject(unavailable, "too_much_in_flight")
		}
		defer h.processing.Release(size)
	}
	var signer *secret
	err = h.measure(ctx, "verify", func(context.Context) error {
		if signer = h.secrets.Load().verify(body, claim.header, h.cfg.Now()); signer == nil {
			return reject(unauthorized, "signature")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if h.cfg.Verified != nil {
		h.cfg.Verified(ctx)
	}
	linkCaller(r)
	return h.store(r, claim, signer.organization, body), nil
}

func (h *Handler) checkRequest(r *http.Request) error {
	switch {
	case r.URL.Path != h.cfg.Path:
		return reject(notFound, "path")
	case r.Method != http.MethodPost:
		return reject(methodNotAllowed, "method")
	case h.draining.Load():
		return reject(unavailable, "shutting_down")
	case slices.ContainsFunc(r.Header.Values("Content-Encoding"), func(e string) bool { return e != "" && !strings.EqualFold(e, "identity") }):
		return reject(unsupportedEncoding, "content_encoding")
	}
	return nil
}

// store publishes a verified body of an organization as an event, or to the
// quarantine if it cannot be parsed.
func (h *Handler) store(r *http.Request, claim claim, organization string, body []byte) *result {
	h.metrics.bodies.Observe(float64(len(body)))
	var message schema.Message
	err := h.measure(r.Context(), "normalize", func(context.Context) (err error) {
		message, err = schema.Normalize(claim.id, body)
		return err
	})
	result := &result{outcome: stored, id: claim.id, organization: organization, bytes: len(body)}
	if err != nil {
		problem := err.(*schema.Error) // as Normalize documents
		message = schema.Quarantine(claim.id, body, problem, claim.quarantineHeader(r.Header))
		result.outcome, result.reason, result.detail = quarantined, string(problem.Reason), problem.Description()
	}
	message = message.WithOrganization(organization)
	err = h.measure(r.Context(), "publish", func(ctx context.Context) (err error) {
		result.receipt, err = h.cfg.Publisher.Publish(ctx, message)
		describePublish(ctx, message, result.receipt)
		return err
	})
	switch {
	case err != nil:
		result.outcome, result.reason, result.detail, result.err = unavailable, reasonOf(err), unavailable.detail, err
	case result.receipt.Duplicate && result.outcome == stored:
		result.outcome = duplicate
	}
	return result
}
