// Package forward forwards what the streams of an edge store to the streams of a hub,
// each message exactly once and in order, and exchanges erasures with the hub.
//
// The edge is an ingress with an embedded broker, and the hub is the broker that
// INGRESS_FORWARD_URL names. For each stream
//
//	watch    looks at the edge's stream every second, and decides whether this ingress
//	         forwards it: of a site of three, the one whose server leads the consumer does
//	up       reads the edge's stream, stores batches at the hub, and erases there what a
//	         tombstone names
//	down     reads the headers of the hub's stream, and erases here what a tombstone names
//	compare  looks whether the hub's stream still has what it had; if not, watch forwards
//	         everything again
//
// A message is never given up, and the next batch is sent when the hub has confirmed the
// last one. What the hub has confirmed is the position of a durable consumer of the
// edge's stream, called Consumer, through which nothing is read: the broker counts what
// waits, replicates the position, and backs it up and restores it with the stream. Its
// metadata has the position of down. If a position is lost or too low, messages are
// forwarded again, which the hub recognizes as duplicates. So do two ingresses that
// forward concurrently for a moment no harm.
package forward

import (
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

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

const (
	// interval is the time between two looks at a stream, and at the hub.
	interval = time.Second
	// maxPause is the longest time between two attempts to reach the hub.
	maxPause = 2 * time.Second
	// maxRejectedPause is the longest time between two attempts to open streams that the
	// hub has rejected.
	maxRejectedPause = 30 * time.Second
)

// Config configures a Forwarder. All fields must be set.
type Config struct {
	Settings    config.Settings // with INGRESS_FORWARD_URL
	Edge        *broker.Connection
	Credentials *broker.Credentials // at the hub
	Logger      *slog.Logger
	Metrics     prometheus.Registerer
}

// A Forwarder forwards the streams of an edge.
type Forwarder struct {
	cfg     Config
	log     *slog.Logger
	eraser  publish.Eraser // at the edge
	streams [schema.Kinds]*stream
	metrics *metrics

	hub       atomic.Pointer[publish.Publisher] // nil before it is open
	connected atomic.Bool                       // whether the hub can store messages
}

// ErrForwards is wrapped by the error for a hub that forwards.
var ErrForwards = errors.New("the hub forwards events itself")

// CheckHub returns an error that wraps [ErrForwards] if the broker is an edge, by the
// consumer of its event stream: this edge, under another address, or one that forwards
// here. Such a broker would confirm what both of them then remove.
//
// An edge has that consumer before it looks at its hub, so one of two edges that name each
// other sees that of the other.
func CheckHub(ctx context.Context, hub jetstream.JetStream, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*interval)
	defer cancel()
	_, err := hub.Consumer(ctx, stream, Consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("looking whether the hub forwards: %w", err)
	}
	return fmt.Errorf("%w, or is this edge: its stream %s has the consumer %s; set INGRESS_FORWARD_URL to a broker that keeps what it stores, "+
		"or, if INGRESS_FORWARD_URL is no longer set there, delete that consumer", ErrForwards, stream, Consumer)
}

// New returns a Forwarder whose positions are those of the last run. It corrects a
// position after the end of its stream, which has lost its last messages, so nothing may
// be stored in between. It waits for a cluster of edges that has no leader yet; its error
// is that of ctx. Run forwards.
func New(ctx context.Context, cfg Config) (*Forwarder, error) {
	f := &Forwarder{
		cfg:    cfg,
		log:    cfg.Logger.With("hub", publish.Addresses(cfg.Settings.ForwardURL)),
		eraser: cfg.Edge.Eraser(),
	}
	f.metrics = newMetrics(f)
	for kind := range f.streams {
		s := &stream{Forwarder: f, kind: schema.Kind(kind), rate: assumedRate}
		if f.streams[kind] = s; !s.first(ctx) {
			return nil, fmt.Errorf("forwarding: %w", context.Cause(ctx))
		}
	}
	cfg.Metrics.MustRegister(f.metrics)
	return f, nil
}

// Run forwards until ctx ends.
func (f *Forwarder) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, s := range f.streams {
		running.Go(func() { s.watch(ctx) })
	}
	for ctx.Err() == nil {
		f.link(ctx)
	}
}

// link opens the hub's streams, and watches the hub until ctx or the connection ends.
func (f *Forwarder) link(ctx context.Context) {
	writable, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, cut) })()
	cfg := f.cfg.Settings.HubStreams()
	cfg.URL = f.cfg.Settings.ForwardURL
	cfg.Options = []nats.Option{f.cfg.Credentials.Option, nats.SetCustomDialer(dialer{writable}), nats.PingInterval(pingInterval)}
	cfg.Explain, cfg.CLI = f.cfg.Credentials.Explain, broker.CLI(f.cfg.Settings.Hub())
	cfg.Logger = f.log
	var hub *publish.Publisher
	for pause := interval; ; pause = min(2*pause, maxRejectedPause) {
		var err error
		if hub, err = publish.Open(ctx, cfg); err == nil {
			if err = CheckHub(ctx, hub.JetStream(), f.cfg.Settings.Stream); err == nil {
				break
			}
			hub.Close()
		}
		if ctx.Err() != nil {
			return
		}
		f.log.Error("hub cannot be used; events are stored here and wait for it", "error", err, "remedy", "versive-ingress doctor")
		sleep(ctx, pause)
	}
	defer hub.Close()
	f.hub.Store(hub)
	defer f.hub.Store(nil)
	defer f.connected.Store(false)
	logged := make(map[string]bool) // the reasons, since the link is down; attempts to connect may alternate between them
	for {
		switch err := hub.Ready(); {
		case err == nil && !f.connected.Swap(true):
			f.log.Info("link to the hub is up: events are forwarded", "pending", f.Pending())
			clear(logged)
		case err != nil && (f.connected.Swap(false) || !logged[err.Error()]):
			f.log.Warn("link to the hub is down: events are stored here and wait for it", "error", err, "pending", f.Pending())
			logged[err.Error()] = true
		case err == nil && errors.Is(CheckHub(ctx, hub.JetStream(), f.cfg.Settings.Stream), ErrForwards): // its configuration, or what the address leads to, has changed
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-hub.Closed():
			return
		case <-time.After(interval):
		}
	}
}

// Pending returns how many messages wait to be forwarded, as of the last second.
func (f *Forwarder) Pending() (n uint64) {
	for _, s := range f.streams {
		n += s.status.Load().Pending
	}
	return n
}

// A lastError is the text of the last error of a task, so that one that is repeated is
// logged once. The zero value is that of a task that has succeeded.
type lastError string

// isNew takes the outcome of the next attempt, and reports whether it is to be logged: an
// error, unless it is that of the last attempt, or ctx has ended.
func (l *lastError) isNew(ctx context.Context, err error) bool {
	before := *l
	if *l = ""; err != nil {
		*l = lastError(err.Error())
	}
	return err != nil && *l != before && ctx.Err() == nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
