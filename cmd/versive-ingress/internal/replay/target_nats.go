package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// How much may be unconfirmed.
	windowEvents, windowBytes = 256, 16 << 20
	// ackTimeout is the time without a confirmation after which all unconfirmed
	// events are sent again.
	ackTimeout = 10 * time.Second
	// sendAttempts is how often an event is sent again before the replay ends. The
	// wait for a broker that is away counts as one attempt, however long it takes.
	sendAttempts = 5
)

// natsTarget publishes events to a subject, over a route.
//
// Its connection never reconnects by itself. When it is lost, the server may have the
// first of the unconfirmed events. All of them are then sent again under the same
// message ids, which keeps the order. A stream recognizes those that it has within its
// duplicate window; everyone else receives them twice.
type natsTarget struct {
	endpoint  config.Endpoint
	subject   string
	suffix    string   // of the message ids
	streams   []string // that listen; none: plain NATS
	domain    string   // JetStream domain of those streams
	delivered onDelivered
	note      func(format string, args ...any)

	nc       *nats.Conn
	send     route
	pending  []unconfirmed
	bytes    int // of pending
	failures int // since the last confirmation
}

// unconfirmed is an event that was sent.
type unconfirmed struct {
	event subscribe.Message
	await confirmation
}

func (t *natsTarget) deliver(ctx context.Context, m subscribe.Message) error {
	t.pending = append(t.pending, unconfirmed{m, t.send(t.message(m))})
	t.bytes += len(m.Data)
	return t.settle(ctx, windowEvents, windowBytes)
}

func (t *natsTarget) flush(ctx context.Context) error { return t.settle(ctx, 0, 0) }

// message returns the message to send. Its id is new, so that a stream does
// not take it for a duplicate, but the same whenever this replay sends it.
func (t *natsTarget) message(m subscribe.Message) *nats.Msg {
	stored := schema.Stored(schema.KindEvent, m.Subject, m.Header, m.Data)
	msg := &nats.Msg{Subject: t.subject, Header: stored.Header, Data: m.Data}
	if prefix, ok := strings.CutSuffix(t.subject, ">"); ok {
		_, tokens, _ := strings.Cut(m.Subject, ".")
		msg.Subject = prefix + tokens
	}
	msg.Header.Set(jetstream.MsgIDHeader, cmp.Or(stored.ID, m.ID)+t.suffix) // a tombstone has an id of its own
	msg.Header.Set(schema.HeaderOriginalID, m.ID)
	return msg
}

// settle waits until at most so many events, and bytes, are unconfirmed.
func (t *natsTarget) settle(ctx context.Context, events, bytes int) error {
	for len(t.pending) > events || t.bytes > bytes {
		first := t.pending[0]
		waiting, cancel := context.WithTimeout(ctx, ackTimeout)
		duplicate, err := first.await(waiting)
		if errors.Is(err, context.DeadlineExceeded) {
			err = cmp.Or(t.nc.LastError(), fmt.Errorf("no acknowledgement within %v", ackTimeout))
		}
		cancel()
		switch {
		case err == nil:
			t.pending = slices.Delete(t.pending, 0, 1)
			t.bytes -= len(first.event.Data)
			t.failures = 0
			t.delivered(first.event, duplicate)
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isRefusal(err), t.failures == sendAttempts:
			t.pending, t.bytes = nil, 0 // the replay ends with this
			return undelivered(first.event, err)
		}
		t.failures++
		pause := pauseAfter(t.failures)
		t.note("%v; sending again in %v", undelivered(first.event, err), pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		if err := t.resend(ctx); err != nil {
			return err
		}
	}
	return nil
}

// isRefusal reports whether sending again would not help.
func isRefusal(err error) bool {
	const (
		storeFailed = 10077 // full, as a rule
		inFlight    = 10158 // a cluster has yet to store what was sent before
	)
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode != inFlight && (api.Code != 503 || api.ErrorCode == storeFailed) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrPermissionViolation)
}

// resend sends all that is unconfirmed over a new connection. It waits for a
// broker that is away.
func (t *natsTarget) resend(ctx context.Context) error {
	t.close()
	for attempt := 1; ; attempt++ {
		err := t.connect()
		if err == nil {
			break
		}
		pause := pauseAfter(attempt)
		t.note("%v; trying again in %v", err, pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	for i := range t.pending {
		t.pending[i].await = t.send(t.message(t.pending[i].event))
	}
	return nil
}

func (t *natsTarget) connect() (err error) {
	closed := make(chan struct{})
	t.nc, err = broker.Connect(t.endpoint, "replay", nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	if len(t.streams) == 0 {
		t.send = toSubscribers(t.nc)
		return nil
	}
	t.send, err = toStream(t.nc, closed, t.check)
	return err
}

// check returns an error if an acknowledgement is not that of a stream that listens.
func (t *natsTarget) check(ack *jetstream.PubAck) error {
	if !slices.Contains(t.streams, ack.Stream) {
		return fmt.Errorf("stream %s has it, not %s", ack.Stream, strings.Join(t.streams, " or "))
	}
	if ack.Domain != t.domain {
		return fmt.Errorf("stream %s of JetStream domain %q has it, not that of domain %q", ack.Stream, ack.Domain, t.domain)
	}
	return nil
}

func (t *natsTarget) close() {
	if t.nc != nil {
		t.nc.Close()
	}
}
