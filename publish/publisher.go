package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"

	"versive-ingress/schema"
)

// Publisher stores messages. It is safe for concurrent use.
type Publisher struct {
	cfg        Config
	nc         *nats.Conn
	js         jetstream.JetStream
	domain     string              // of the streams; set by open
	streams    [2]jetstream.Stream // by Kind
	creating   [2]bool             // by Kind, whether a request to create the stream was not answered: it may be on the disk already; owned by ensure
	committers [2]*committer       // by Kind

	// session is cancelled when the connection is lost, and every Publish with it:
	// nats.go would wait for replies that can no longer arrive.
	session atomic.Pointer[session]
	// terms are cancelled when a stream of a cluster has another leader: one that is
	// replaced does not answer what it has received. By Kind; nil without a cluster.
	terms    [2]atomic.Pointer[session]
	leaders  [2]string    // by Kind: the leader, and since when; owned by check
	notReady atomic.Bool  // what Config.Ready last reported; set by monitor
	uploads  atomic.Int32 // calls of Store that send much

	// unanswered counts how often callers have got an error although a batch with their
	// message may be stored; synced is the count at the last Config.Sync that succeeded.
	unanswered, synced atomic.Uint64

	ready        atomic.Pointer[error]   // to nil, or to why the streams cannot be written; set by monitor
	unknownSince time.Time               // since when the leader is unknown, or zero; owned by monitor
	lacksSince   [schema.Kinds]time.Time // by Kind, since when its stream lacks what was acknowledged, or zero; owned by check
	lastFailure  atomic.Pointer[failure]
	lastStored   [2]atomic.Int64 // by Kind, when a message was last stored, in milliseconds of Unix time
	lastFailed   [2]atomic.Int64 // by Kind, the same for the last message that could not be stored; 0 if a later one was
	marks        *marks
	metrics      *metrics
	dialError    atomic.Pointer[error] // to why the broker could not be dialled again; nil while there is a connection
	denied       sync.Map              // permission violations that were logged; see deniedSubject
	closed       chan struct{}         // closed by a goroutine of the connection
	closing      *atomic.Bool          // set by Close
	stop         context.CancelFunc
	stopped      sync.WaitGroup
}

// Open connects to the broker and creates or updates the streams. While the broker
// cannot be reached, Open retries every second until ctx is done, and logs why after
// growing pauses. It returns a [*ConflictError] if a stream is configured so that it
// cannot hold the promise, and an error for which [IsAuthError] is true if the broker
// rejects the credentials.
//
// The connection is reestablished after every loss; see [Publisher.Ready].
func Open(ctx context.Context, cfg Config) (*Publisher, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if w := window(cfg.DedupeWindow, cfg.brokerAge()); w < cfg.DedupeWindow {
		cfg.Logger.Warn("duplicate window is shortened to the maximum age of events", "window", w.String(), "wanted", cfg.DedupeWindow.String())
	}
	if cfg.Explain == nil {
		cfg.Explain = func(err error) error {
			return fmt.Errorf("no connection to the broker at %s: %w", Addresses(cmp.Or(cfg.URL, "nats://in-process")), err)
		}
	}
	p := &Publisher{cfg: cfg, marks: openMarks(cfg.MarksDir, cfg.Stream, cfg.Logger)}
	for kind := range p.committers {
		p.committers[kind] = newCommitter(p, schema.Kind(kind))
	}
	p.metrics = newMetrics(p)
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(p.metrics)
	}
	p.newSession(nil)
	var logged time.Time        // when the last warning was logged
	for pause := retryWait; ; { // between two warnings
		var err error
		if cfg.Diagnose != nil {
			err = cfg.Diagnose() // there would be no answer, also if there is a leader meanwhile
		}
		if err == nil {
			err = p.open(ctx)
		}
		if err == nil {
			break
		}
		p.Close()
		if _, conflict := errors.AsType[*ConflictError](err); conflict || IsAuthError(err) {
			return nil, fmt.Errorf("opening publisher: %w", err)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("opening publisher: %w (last: %v)", context.Cause(ctx), err)
		}
		if time.Since(logged) >= pause {
			cfg.Logger.Warn("broker is not ready; waiting for it", "error", err)
			logged, pause = time.Now(), min(2*pause, maxPause)
		}
		_ = sleep(ctx, retryWait)
	}
	if !logged.IsZero() {
		cfg.Logger.Info("broker is ready")
	}
	p.setReady(p.check(ctx))                  // also compares the marks before anything is stored, because lost sequences are reused
	if err := p.marks.sync(ctx); err != nil { // a process that ends in the first second leaves its marks too
		cfg.Logger.Error(marksNotSaved, "error", err)
	}
	runCtx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.repeat(runCtx, checkInterval, checkInterval, slog.LevelError, "streams cannot be written", p.monitor)
	if !cfg.Hub {
		p.watch(runCtx)
	}
	for _, c := range p.committers {
		if c.batching {
			p.stopped.Go(func() { c.run(runCtx) })
		}
	}
	return p, nil
}

// watch looks for losses, and counts backlogs and what consumers have to read, until ctx
// ends.
func (p *Publisher) watch(ctx context.Context) {
	p.repeat(ctx, checkInterval, checkInterval, slog.LevelError, marksNotSaved, p.marks.sync)
	p.repeat(ctx, checkInterval, maxPause, slog.LevelWarn, "cannot determine whether deleted messages were erased", p.explainDeletions)
	for _, kind := range [...]schema.Kind{schema.KindQuarantine, schema.KindDead} {
		p.repeat(ctx, checkInterval, maxPause, slog.LevelDebug, "backlog of "+kind.Stream(p.cfg.Stream)+" is not updated", func(ctx context.Context) error {
			return p.updateBacklog(ctx, kind)
		})
	}
	p.repeat(ctx, consumersInterval, maxPause, slog.LevelDebug, "consumers cannot be listed", p.updateConsumers)
}

// JetStream returns the publisher's connection, which belongs to the publisher.
func (p *Publisher) JetStream() jetstream.JetStream { return p.js }

// MaxMessage returns the size in bytes of the largest message, including headers,
// that the broker and the streams accept.
func (p *Publisher) MaxMessage() int64 {
	size := p.nc.MaxPayload()
	for _, stream := range p.streams {
		if limit := int64(stream.CachedInfo().Config.MaxMsgSize); limit > 0 {
			size = min(size, limit)
		}
	}
	return size
}

// Publish stores m and returns when its stream has confirmed that, as durably as
// the broker is configured (sync_interval: always, or replicas). m must be an
// event or a quarantined webhook.
//
// Publish does not end when ctx is done, because the message may be stored even if
// its caller no longer waits; it ends after Config.Timeout. The message carries the
// span in ctx, if there is one, to its consumers. The caller must not change m.Data
// or m.Header even after Publish has returned: after an error they may still be
// read.
//
// The error is an [*Error]. After an error the message may be stored, since only
// the reply may be lost; publishing it again is safe.
func (p *Publisher) Publish(ctx context.Context, m schema.Message) (schema.Receipt, error) {
	if m.Kind != schema.KindEvent && m.Kind != schema.KindQuarantine {
		return schema.Receipt{}, &Error{"refused", fmt.Errorf("message of kind %d is neither an event nor a quarantined webhook", m.Kind)}
	}
	msg := p.message(ctx, m)
	ctx, cancel := context.WithTimeout(p.session.Load().ctx, p.cfg.Timeout)
	defer cancel()
	if err := p.rejected(); err != nil {
		return schema.Receipt{}, err
	}
	if p.notReady.Load() {
		if err := p.durable(true); err != nil { // there would be no answer
			return schema.Receipt{}, classify(err)
		}
	}
	began := p.marks.begin(m.Kind)
	receipt, err := p.committers[m.Kind].publish(ctx, m.ID, msg)
	if err != nil {
		p.lastFailed[m.Kind].Store(time.Now().UnixMilli())
		return schema.Receipt{}, p.failed(ctx, err)
	}
	p.lastFailure.Store(nil)
	p.lastFailed[m.Kind].Store(0)
	p.marks.ack(m.Kind, receipt, began)
	if !receipt.Duplicate {
		p.lastStored[m.Kind].Store(time.Now().UnixMilli())
	}
	return receipt, nil
}

func (p *Publisher) message(ctx context.Context, m schema.Message) *nats.Msg {
	header := make(nats.Header, len(m.Header)+5) // leaves space for three headers of a batch
	maps.Copy(header, m.Header)
	if m.ID != "" { // a dead letter is stored without
		header[jetstream.MsgIDHeader] = []string{m.ID}
	}
	header[jetstream.ExpectedLastSubjSeqHeader] = []string{"0"}
	// The span's headers, if there is one. Their names are in lower case, which
	// propagation.HeaderCarrier would change.
	span := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, span)
	for name, value := range span {
		header[name] = []string{value}
	}
	return &nats.Msg{Subject: m.Subject(p.cfg.Subject), Header: header, Data: m.Data}
}

// durable returns an error if a message that the broker has acknowledged or, for a
// duplicate, that it knows may not be on its disk. Each answer by which messages are
// confirmed is followed by one call: a batch has one answer.
func (p *Publisher) durable(duplicate bool) error {
	if p.cfg.Durable == nil {
		return nil
	}
	err := p.cfg.Durable(duplicate)
	if unanswered := p.unanswered.Load(); err == nil && p.cfg.Sync != nil && unanswered != p.synced.Load() {
		if err = p.cfg.Sync(); err == nil {
			p.synced.Store(unanswered)
		}
	}
	if err != nil {
		return &unwritableError{err}
	}
	return nil
}

// request publishes a message. It returns errLeaderReplaced if the leader of the stream was
// replaced before it answered: the message may be stored.
func (p *Publisher) request(ctx context.Context, kind schema.Kind, msg *nats.Msg) (*jetstream.PubAck, error) {
	term := p.terms[kind].Load()
	if term == nil { // not a cluster
		return p.js.PublishMsg(ctx, msg)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(term.ctx, func() { cancel(errLeaderReplaced) })()
	ack, err := p.js.PublishMsg(ctx, msg)
	if err != nil && errors.Is(context.Cause(ctx), errLeaderReplaced) {
		err = errLeaderReplaced
	}
	return ack, err
}

// attempt publishes a message once. It implements the exactly-once rule.
func (p *Publisher) attempt(ctx context.Context, kind schema.Kind, msg *nats.Msg) (schema.Receipt, error) {
	name := kind.Stream(p.cfg.Stream)
	ack, err := p.request(ctx, kind, msg)
	if err == nil {
		if err := p.checkAck(name, ack.Stream, ack.Domain); err != nil {
			return schema.Receipt{}, err
		}
		return schema.Receipt{Stream: name, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, p.durable(ack.Duplicate)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		// The broker reports that the subject has a message. Look it up to be sure.
		receipt, err := p.lookUp(ctx, kind, msg.Subject)
		if err == nil {
			return receipt, p.durable(true)
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) { // else on a replica that lags
			return schema.Receipt{}, fmt.Errorf("confirming a duplicate: %w", err)
		}
	}
	return schema.Receipt{}, err
}

// lookUp returns the receipt of a duplicate of the message on a subject.
func (p *Publisher) lookUp(ctx context.Context, kind schema.Kind, subject string) (schema.Receipt, error) {
	last, err := p.streams[kind].GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return schema.Receipt{}, err
	}
	return schema.Receipt{Stream: kind.Stream(p.cfg.Stream), Sequence: last.Sequence, Duplicate: true, Erased: schema.IsTombstone(last.Header)}, nil
}
