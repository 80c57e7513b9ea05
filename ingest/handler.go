package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"versive-ingress/schema"
)

// Publisher stores a message durably and once.
//
// Publish returns a Receipt only when the message is durably in its stream,
// whether by this call or an earlier one. After an error the message may or
// may not be there, and publishing it again must be safe. It must return
// within a bounded time, whatever becomes of ctx. It may read m after that.
// An error with a method Reason() string names itself in metrics; the word must
// be one of a few.
type Publisher interface {
	Publish(ctx context.Context, m schema.Message) (Receipt, error)
}

// Receipt says where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // it was stored before this call
}

// Config says what a Handler accepts. All fields without a stated zero value
// must be set.
type Config struct {
	Path        string        // the one path that is served
	Secrets     []string      // see CheckSecret; every one is accepted; see also Handler.SetSecrets
	Tolerance   time.Duration // accepted distance of the signed timestamp from the clock
	MaxBody     int64         // bytes
	MaxInflight int64         // bytes of all bodies held concurrently; at least 4/3 of MaxBody
	Publisher   Publisher

	// Verified is called with a request's context when its signature has proved
	// right, before anything is stored. nil is not called.
	Verified func(context.Context)

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil registers nothing
	Tracer  trace.Tracer          // nil traces nothing, at no cost
	Now     func() time.Time      // nil is time.Now

	// LogLimit bounds the log lines a second, for each reason, about what is
	// refused before it is verified; what is left out is counted. 0 is 10.
	LogLimit int

	// RefusalLimit is how many requests a second may be refused at once before
	// they are verified. Those beyond get their answer a second later. 0 is 1,000.
	RefusalLimit int
}

// BodyTimeout bounds how long a body may take to arrive and, if it is a larger
// one, to get its turn. Together with the Publisher's own bound it must stay
// below the 15 seconds after which the sender gives up on an answer.
const BodyTimeout = 5 * time.Second

// Handler is the webhook endpoint. It is safe for concurrent use.
type Handler struct {
	cfg      Config
	secrets  atomic.Pointer[keyring]
	changing sync.Mutex // held by SetSecrets
	inflight *budget
	// processing bounds the bytes of larger bodies that are being verified,
	// normalized and stored, for which each is copied several times.
	processing *semaphore.Weighted
	draining   atomic.Bool
	metrics    *metrics
	sampler    *sampler
	brake      brake
}

// New returns a Handler, or an error that says which secret cannot be used.
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
		brake:      newBrake(cfg.RefusalLimit),
		processing: semaphore.NewWeighted(max(cfg.MaxInflight/16, cfg.MaxBody)),
	}
	h.secrets.Store(&secrets)
	h.metrics = newMetrics(cfg.Metrics, h.inflight, &h.secrets)
	h.sampler = newSampler(cfg.Logger, cfg.LogLimit)
	return h, nil
}

// Drain makes the Handler answer 503 from now on. Requests in progress are
// finished.
func (h *Handler) Drain() { h.draining.Store(true) }

// ServeHTTP answers one webhook by the contract's table.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := h.cfg.Now()
	limitBody(w)
	r = h.startSpan(r)
	result, err := h.handleSafely(w, r, time.Now().Add(BodyTimeout))
	if err != nil {
		discardBody(r)
	}
	if refused, ok := errors.AsType[*refusal](err); ok && refused.outcome != unavailable {
		h.brake.wait(r.Context())
	}
	h.answer(w, r, result, err, started)
}

// handleSafely turns a panic into an answer, so that the sender comes again and
// the operator sees why. The panic's value may quote the body; it is not logged.
func (h *Handler) handleSafely(w http.ResponseWriter, r *http.Request, deadline time.Time) (_ result, err error) {
	defer func() {
		if recover() != nil {
			err = unavailable.because("panic").after(errors.New(string(debug.Stack())))
		}
	}()
	return h.handle(w, r, deadline)
}

// handle takes a request through all steps. What the headers rule out costs no
// memory: not a byte of the body is read for it.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request, deadline time.Time) (result, error) {
	if err := h.checkRequest(r); err != nil {
		return result{}, err
	}
	claim, err := readClaim(r.Header)
	if err != nil {
		return result{}, err
	}
	if err := claim.checkTimestamp(h.cfg.Now(), h.cfg.Tolerance); err != nil {
		return result{}, err
	}
	if r.ContentLength > h.cfg.MaxBody {
		return result{}, tooLarge.because("content_length")
	}

	upload := h.inflight.begin(w, r.ContentLength)
	defer h.inflight.release(upload) // nothing refers to the body once it is stored or refused
	body, err := h.readBody(w, r, upload)
	if err != nil {
		return result{}, err
	}
	if len(body) > smallBody {
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		if h.processing.Acquire(ctx, int64(len(body))) != nil {
			return result{}, unavailable.because("too_much_in_flight")
		}
		defer h.processing.Release(int64(len(body)))
	}
	if err := h.verify(r.Context(), claim, body); err != nil {
		return result{}, err
	}
	if h.cfg.Verified != nil {
		h.cfg.Verified(r.Context())
	}
	linkCaller(r)
	return h.store(r, claim, body)
}

func (h *Handler) checkRequest(r *http.Request) error {
	switch {
	case r.URL.Path != h.cfg.Path:
		return notFound.because("path")
	case r.Method != http.MethodPost:
		return methodNotAllowed.because("method")
	case h.draining.Load():
		return unavailable.because("shutting_down")
	case !isIdentity(r.Header.Values("Content-Encoding")):
		return unsupportedEncoding.because("content_encoding")
	}
	return nil
}

func isIdentity(encodings []string) bool {
	for _, e := range encodings {
		if e != "" && !strings.EqualFold(e, "identity") {
			return false
		}
	}
	return true
}

func (h *Handler) verify(ctx context.Context, claim claim, body []byte) (err error) {
	defer h.begin(ctx, stageVerify).end(&err)
	if !h.secrets.Load().verify(body, claim.header, h.cfg.Now()) {
		return unauthorized.because("signature")
	}
	return nil
}

// store publishes a verified body: as an event if it can be understood, else
// raw, to the quarantine.
func (h *Handler) store(r *http.Request, claim claim, body []byte) (result, error) {
	result := result{id: claim.id, bytes: len(body)}
	h.metrics.bodies.Observe(float64(len(body)))
	message, err := h.normalize(r.Context(), claim, body)
	problem, quarantine := errors.AsType[*schema.Error](err)
	switch {
	case quarantine:
		message = schema.Quarantine(claim.id, body, problem, claim.origin(r.Header))
	case err != nil:
		return result, err
	}
	receipt, err := h.publish(r.Context(), message)
	if err != nil {
		return result, unavailable.because(reasonOf(err)).after(err)
	}
	result.receipt, result.problem = receipt, problem
	return result, nil
}

func (h *Handler) normalize(ctx context.Context, claim claim, body []byte) (_ schema.Message, err error) {
	defer h.begin(ctx, stageNormalize).end(&err)
	return schema.Normalize(claim.id, body)
}

func (h *Handler) publish(ctx context.Context, m schema.Message) (receipt Receipt, err error) {
	publishing := h.begin(ctx, stagePublish)
	defer publishing.end(&err)
	describeMessage(publishing.ctx, m)
	if receipt, err = h.cfg.Publisher.Publish(publishing.ctx, m); err == nil {
		describeReceipt(publishing.ctx, receipt)
	}
	return receipt, err
}
