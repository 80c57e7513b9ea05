package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/schema"
)

// Config says where to publish and how. All fields without a stated zero
// value must be set.
type Config struct {
	// URL lists the broker's addresses, comma separated. Ignored with
	// nats.InProcessServer among the Options.
	URL string
	// Options are added to the connection's own: credentials, TLS.
	Options []nats.Option

	Stream       string        // name of the event stream; the others' derive from it
	Subject      string        // first token of the events' subjects
	Replicas     int           // of each stream
	MaxAge       time.Duration // of a stored message; 0 keeps it for ever
	DedupeWindow time.Duration // shrinks to MaxAge if that is shorter
	Timeout      time.Duration // for one Publish, retries included
	KeepStreams  bool          // neither create nor change a stream; for a command beside an ingress

	Mode       Mode // zero is ModeAuto
	SyncAlways bool // the broker syncs its disk before it acknowledges; see ModeAuto

	// MarksDir is where the high-water marks of the streams are kept, by which a
	// loss is noticed: a directory that exists and that no other Publisher uses.
	// Empty keeps them in memory, so that a loss while the program does not run
	// goes unnoticed. See [ReadLosses].
	MarksDir string
	// MayCreate is called before a stream is created that the broker does not
	// know. It returns an error if that would lose what is stored. Nil allows it.
	MayCreate func(stream string) error
	// Durable is called before a duplicate is confirmed. It returns an error if
	// the broker may know messages that are not on its disk. Nil never does.
	Durable func() error

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil registers nothing
}

// Receipt says where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // it was stored already
}

// Publisher stores messages. It is safe for concurrent use.
type Publisher struct {
	cfg        Config
	nc         *nats.Conn
	js         jetstream.JetStream
	domain     string              // of the streams; set by open
	streams    [2]jetstream.Stream // by Kind
	committers [2]*committer       // by Kind

	// link ends when the connection is lost, and every Publish with it: what was
	// written to it will have no answer, but nats.go would wait for one.
	link atomic.Pointer[link]

	// ready holds nil or why the streams cannot be written; see monitor.
	ready    atomic.Pointer[error]
	troubled atomic.Pointer[trouble]
	marks    *marks
	metrics  *metrics
	denied   sync.Map      // the permission violations that were logged; see denial
	closed   chan struct{} // closed by the connection's own goroutine
	stop     context.CancelFunc
	stopped  sync.WaitGroup
}

const (
	// dialTimeout bounds a connection attempt and a write to the connection.
	// The latter must be short: nats.go writes under its lock, and a frozen
	// broker would hold up every caller beyond its deadline.
	dialTimeout = 2 * time.Second
	// retryWait is between attempts to reach the broker.
	retryWait = time.Second
)

// Open connects to the broker and creates or widens the streams. While the
// broker cannot be reached it waits, logging why, until ctx ends. It returns
// a [*ConflictError] when the streams cannot hold the promise, and
// nats.ErrAuthorization or the like when the broker refuses the credentials.
//
// The connection outlives every loss of the broker; see [Publisher.Ready].
func Open(ctx context.Context, cfg Config) (*Publisher, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if w := window(cfg.DedupeWindow, cfg.MaxAge); w < cfg.DedupeWindow {
		cfg.Logger.Warn("duplicate window shrinks to the maximum age of events", "window", w, "wanted", cfg.DedupeWindow)
	}
	p := &Publisher{cfg: cfg, marks: openMarks(cfg.MarksDir, cfg.Logger)}
	p.metrics = newMetrics(p.marks)
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(p.metrics)
	}
	p.newLink()
	for {
		err := p.open(ctx)
		if err == nil {
			break
		}
		p.Close()
		if isPermanent(err) {
			return nil, fmt.Errorf("opening publisher: %w", err)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("opening publisher: %w (last: %v)", context.Cause(ctx), err)
		}
		cfg.Logger.Warn("broker is not ready; waiting for it", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
	p.lookAtMarks(ctx) // before anything is stored: sequences that were lost are used again
	monitorCtx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.stopped.Go(func() { p.monitor(monitorCtx) })
	p.stopped.Go(func() { p.watchDepths(monitorCtx) })
	p.stopped.Go(func() { p.watchMarks(monitorCtx) })
	for _, c := range p.committers {
		if c.batching {
			p.stopped.Go(func() { c.run(monitorCtx) })
		}
	}
	return p, nil
}

// A link is the time between two losses of the connection.
type link struct {
	ctx context.Context
	end context.CancelFunc
}

// newLink ends the link before it.
func (p *Publisher) newLink() {
	ctx, end := context.WithCancel(context.Background())
	if before := p.link.Swap(&link{ctx, end}); before != nil {
		before.end()
	}
}

func isPermanent(err error) bool {
	if _, ok := errors.AsType[*ConflictError](err); ok {
		return true
	}
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

func (p *Publisher) open(ctx context.Context) error {
	log := p.cfg.Logger
	closed := make(chan struct{})
	p.closed = closed
	options := append([]nats.Option{
		nats.Name("versive-ingress"),
		nats.Timeout(dialTimeout),
		nats.FlusherTimeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(retryWait / 4),
		// A message that waits for a reconnection would be stored long after
		// its caller was told that it failed.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			p.newLink()
			if err != nil { // nil: closed by us
				log.Warn("broker connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("broker connection is back", "broker", nc.ConnectedAddr())
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			if err := nc.LastError(); err != nil {
				log.Error("broker connection is closed for good", "error", err)
			}
			close(closed)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) { // each time that the same is asked for
				if _, logged := p.denied.LoadOrStore(denial(err), true); logged {
					return
				}
			}
			log.Error("broker reported an error", "error", err)
		}),
	}, p.cfg.Options...)

	var err error
	if p.nc, err = nats.Connect(p.cfg.URL, options...); err != nil {
		return fmt.Errorf("connecting to the broker at %s: %w", Addresses(cmp.Or(p.cfg.URL, "nats://in-process")), err)
	}
	p.metrics.conn.Store(p.nc)
	if p.js, err = jetstream.New(p.nc); err != nil {
		return err
	}
	return p.ensureAll(ctx)
}

func (p *Publisher) ensureAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*dialTimeout)
	defer cancel()
	for kind := range p.streams {
		stream, err := p.ensure(ctx, schema.Kind(kind))
		if err != nil {
			return err
		}
		p.streams[kind] = stream
		p.metrics.streams[kind].Store(stream.CachedInfo())
		p.committers[kind] = newCommitter(p, schema.Kind(kind), p.cfg.batches(&stream.CachedInfo().Config))
	}
	var err error
	p.domain, err = Domain(ctx, p.nc, p.cfg.Stream)
	return err
}

// MaxMessage returns the size in bytes of the largest message, headers and
// data together, that the broker and both streams take.
func (p *Publisher) MaxMessage() int64 {
	size := p.nc.MaxPayload()
	for _, stream := range p.streams {
		if limit := int64(stream.CachedInfo().Config.MaxMsgSize); limit > 0 {
			size = min(size, limit)
		}
	}
	return size
}

// Closed is closed when the connection is gone for good: by Close, or by a
// broker that refuses it in a way that no reconnection would mend. Every
// Publish fails from then on, so the program should end and start anew.
func (p *Publisher) Closed() <-chan struct{} { return p.closed }

// Close ends the connection. A Publish in progress fails.
func (p *Publisher) Close() {
	if p.stop != nil {
		p.stop()
		p.stopped.Wait()
		if p.nc.IsConnected() {
			p.lookAtMarks(context.Background())
		}
	}
	if p.nc != nil {
		p.nc.Close()
	}
}

// Publish stores m and returns when the stream has confirmed it, durably as
// far as the broker's configuration goes (sync_interval: always, or replicas).
// It does not end with ctx, for a message whose caller went away may be stored
// all the same; it has its own deadline, Config.Timeout. The caller must not
// change m.Data or m.Header from then on: after an error they may still be read.
//
// The error is an [*Error]. It does not say that m is not stored: the answer
// may have been lost. Only events and quarantined webhooks are published; any
// other kind is "refused".
//
// A span in ctx goes into the message's headers, for its consumers.
func (p *Publisher) Publish(ctx context.Context, m schema.Message) (Receipt, error) {
	if m.Kind != schema.KindEvent && m.Kind != schema.KindQuarantine {
		return Receipt{}, &Error{"refused", fmt.Errorf("message of kind %d is neither an event nor a quarantined webhook", m.Kind)}
	}
	msg := p.message(ctx, m)
	ctx, cancel := context.WithTimeout(p.link.Load().ctx, p.cfg.Timeout)
	defer cancel()
	if err := p.ready.Load(); err != nil {
		// The stream was changed while we ran: what it would acknowledge now, it
		// might not keep.
		if _, ok := errors.AsType[*ConflictError](*err); ok {
			return Receipt{}, &Error{"refused", *err}
		}
	}
	receipt, err := p.committers[m.Kind].publish(ctx, m.ID, msg)
	if err != nil {
		return Receipt{}, p.failed(err)
	}
	if receipt.Duplicate {
		if err := p.confirmDuplicate(); err != nil {
			return Receipt{}, err
		}
	}
	p.troubled.Store(nil)
	p.marks.ack(m.Kind, receipt.Sequence)
	return receipt, nil
}

// message returns m as it is published.
func (p *Publisher) message(ctx context.Context, m schema.Message) *nats.Msg {
	header := make(nats.Header, len(m.Header)+5) // three are a batch's
	for name, values := range m.Header {
		header[name] = values
	}
	header[jetstream.MsgIDHeader] = []string{m.ID}
	header[jetstream.ExpectedLastSubjSeqHeader] = []string{"0"}
	injectTrace(ctx, header)
	return &nats.Msg{Subject: m.Subject(p.cfg.Subject), Header: header, Data: m.Data}
}

// publishAlone publishes one message by itself, and again while another copy
// is in flight.
func (p *Publisher) publishAlone(ctx context.Context, kind schema.Kind, msg *nats.Msg) (Receipt, error) {
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		receipt, err := p.attempt(ctx, kind, msg)
		if !errors.Is(err, errInFlight) {
			return receipt, err
		}
		select {
		case <-ctx.Done():
			return Receipt{}, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// errInFlight means that another copy is on its way into the stream: neither
// stored for certain nor refused.
var errInFlight = errors.New("another copy of the message is in flight")

// attempt publishes once. It is the whole of the exactly-once rule.
func (p *Publisher) attempt(ctx context.Context, kind schema.Kind, msg *nats.Msg) (Receipt, error) {
	stream := p.streams[kind]
	name := stream.CachedInfo().Config.Name

	ack, err := p.js.PublishMsg(ctx, msg)
	if err == nil {
		if err := p.checkAck(name, ack.Stream, ack.Domain); err != nil {
			return Receipt{}, err
		}
		return Receipt{Stream: name, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
	}

	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return Receipt{}, err
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence:
		// The subject has a message, so says the broker; see it before saying so.
		first, err := stream.GetLastMsgForSubject(ctx, msg.Subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) { // a replica that is behind
			return Receipt{}, errInFlight
		}
		if err != nil {
			return Receipt{}, fmt.Errorf("confirming a duplicate: %w", err)
		}
		return Receipt{Stream: name, Sequence: first.Sequence, Duplicate: true}, nil
	case errCodeDuplicateInFlight, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return Receipt{}, errInFlight
	}
	return Receipt{}, err
}
