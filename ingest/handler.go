package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/schema"
)

// Publisher stores a message durably and once.
//
// Publish returns a Receipt only when the message is durably in its stream,
// whether by this call or an earlier one. After an error the message may or
// may not be there, and publishing it again must be safe. It must return
// within a bounded time, whatever becomes of ctx. An error with a method
// Reason() string names itself in metrics; the word must be one of a few.
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
	Secrets     []string      // see CheckSecret; every one is accepted
	Tolerance   time.Duration // accepted distance of the signed timestamp from the clock
	MaxBody     int64         // bytes
	MaxInflight int64         // bytes of all bodies held at once; at least 4/3 of MaxBody
	Publisher   Publisher

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil registers nothing
	Now     func() time.Time      // nil is time.Now
}

// BodyTimeout bounds how long a body may take to arrive. Together with the
// Publisher's own bound it must stay below the 15 seconds after which the
// sender gives up on an answer.
const BodyTimeout = 5 * time.Second

// Handler is the webhook endpoint. It is safe for concurrent use.
type Handler struct {
	cfg      Config
	secrets  []*svix.Webhook
	inflight *budget
	// verifying bounds how many large bodies are verified at once: the library
	// copies a body several times to sign it.
	verifying chan struct{}
	draining  atomic.Bool
	metrics   *metrics
}

// New returns a Handler, or an error that says which secret cannot be used.
func New(cfg Config) (*Handler, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	secrets, err := parseSecrets(cfg.Secrets)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		cfg:       cfg,
		secrets:   secrets,
		inflight:  newBudget(cfg.MaxInflight),
		verifying: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	h.metrics = newMetrics(cfg.Metrics, h.inflight)
	return h, nil
}

// Drain makes the Handler answer 503 from now on. Requests in progress are
// finished.
func (h *Handler) Drain() { h.draining.Store(true) }

// ServeHTTP answers one webhook by the contract's table.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := h.cfg.Now()
	limitBody(w)
	result, err := h.handleSafely(w, r)
	h.answer(w, r, result, err, started)
}

// handleSafely turns a panic into an answer, so that the sender comes again and
// the operator sees why. The panic's value may quote the body; it is not logged.
func (h *Handler) handleSafely(w http.ResponseWriter, r *http.Request) (_ result, err error) {
	defer func() {
		if recover() != nil {
			err = unavailable.because("panic").after(errors.New(string(debug.Stack())))
		}
	}()
	return h.handle(w, r)
}

// handle takes a request through all steps. What the headers rule out costs no
// memory: not a byte of the body is read for it.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request) (result, error) {
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

	size := r.ContentLength
	if size < 0 {
		size = h.cfg.MaxBody
	}
	if !h.inflight.take(size) {
		return result{}, unavailable.because("too_much_in_flight")
	}
	defer h.inflight.give(size)

	body, err := h.readBody(w, r)
	if err != nil {
		return result{}, err
	}
	if err := h.verify(claim, body); err != nil {
		return result{}, err
	}
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

// limitBody bounds how long the body may take. Refused requests need it too:
// net/http reads what is left of a body before it sends the answer.
func limitBody(w http.ResponseWriter) {
	setBodyDeadline(w, time.Now().Add(BodyTimeout))
}

func setBodyDeadline(w http.ResponseWriter, at time.Time) {
	// Not supported by a ResponseWriter of a test, say: then its own rules hold.
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// readBody reads the whole body, no longer than MaxBody and the deadline allow.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	limited := http.MaxBytesReader(w, r.Body, h.cfg.MaxBody)
	var body []byte
	var err error
	if r.ContentLength >= 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, tooLarge.because("body")
		}
		return nil, badRequest.because("body_cut_short").telling("the body did not arrive whole and in time")
	}
	// Or net/http would take the connection for dead while the event is stored.
	setBodyDeadline(w, time.Time{})
	return body, nil
}

// largeBody is the size in bytes from which verifying a body takes turns.
const largeBody = 1 << 20

func (h *Handler) verify(claim claim, body []byte) error {
	if len(body) >= largeBody {
		h.verifying <- struct{}{}
		defer func() { <-h.verifying }()
	}
	for _, secret := range h.secrets {
		if secret.VerifyIgnoringTimestamp(body, claim.header) == nil {
			return nil
		}
	}
	return unauthorized.because("signature")
}

// store publishes a verified body: as an event if it can be understood, else
// raw, to the quarantine.
func (h *Handler) store(r *http.Request, claim claim, body []byte) (result, error) {
	message, err := schema.Normalize(claim.id, body)
	problem, quarantine := errors.AsType[*schema.Error](err)
	switch {
	case quarantine:
		message = schema.Quarantine(claim.id, body, problem, claim.origin(r.Header))
	case err != nil:
		return result{id: claim.id}, err
	}
	receipt, err := h.cfg.Publisher.Publish(r.Context(), message)
	if err != nil {
		reason := "publishing"
		var named interface{ Reason() string }
		if errors.As(err, &named) {
			reason = named.Reason()
		}
		return result{id: claim.id}, unavailable.because(reason).after(err)
	}
	return result{id: claim.id, bytes: len(body), receipt: receipt, problem: problem}, nil
}
