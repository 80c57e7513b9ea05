package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// How much may be unconfirmed.
	windowEvents, windowBytes = 256, 16 << 20
	// ackTimeout is after how long without an acknowledgement all that is
	// unconfirmed is sent again.
	ackTimeout = 10 * time.Second
	// sendAttempts is how often that is done, for one event, before the replay
	// ends. A broker that is away is waited for, and counts as one.
	sendAttempts = 5
)

// subjectTarget publishes events. Where streams listen they confirm each;
// elsewhere the server confirms that it has passed them on.
//
// Its connection never reconnects by itself: what a server got through a lost
// one are the first of the unconfirmed events, so that sending them all again,
// under the same message ids, keeps the order, and doubles nothing in a stream
// whose duplicate window has not passed meanwhile. Elsewhere they come twice.
type subjectTarget struct {
	settings config.Settings
	subject  string
	streams  []string // that listen; none: plain NATS
	domain   string   // JetStream domain of those streams
	suffix   string   // of the message ids
	confirm  func(receipt)
	note     func(format string, args ...any)

	nc       *nats.Conn
	js       jetstream.JetStream
	closed   chan struct{} // when nc is
	pending  []unconfirmed
	bytes    int // of pending
	failures int // since the last confirmation
}

// unconfirmed is an event that was sent.
type unconfirmed struct {
	event  subscribe.Message
	msg    *nats.Msg
	err    error                  // of sending it
	future jetstream.PubAckFuture // nil on plain NATS
	passed bool                   // on plain NATS: the server has it
}

// target subjects: literal tokens, of which the last may be ">"; none that
// are the server's own.
var targetSubject = regexp.MustCompile(`^[^\s\pC.*>$][^\s\pC.*>]*(\.[^\s\pC.*>]+)*(\.>)?$`)

func checkSubject(subject string) error {
	if !targetSubject.MatchString(subject) {
		return fmt.Errorf(`--to-subject %q: want a subject without wildcards, or one that ends in ".>"`, subject)
	}
	return nil
}

// listeners returns the streams that a subject is stored in, and their JetStream
// domain. It refuses those of the ingress.
func listeners(ctx context.Context, c *broker.Connection, subject string) (names []string, domain string, err error) {
	ours := func(kind schema.Kind) bool {
		first, _, _ := strings.Cut(subject, ".")
		return first == kind.Prefix(c.Settings.Subject)
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	lister := c.JetStream.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		return nil, "", fmt.Errorf("asking which stream listens on %s: %w", subject, err)
	}
	for _, kind := range []schema.Kind{schema.KindEvent, schema.KindQuarantine, schema.KindDead} {
		if name := kind.Stream(c.Settings.Stream); ours(kind) || slices.Contains(names, name) {
			return nil, "", fmt.Errorf("--to-subject %s would write into %s, a stream of the ingress; give a subject of your own", subject, name)
		}
	}
	if len(names) > 0 {
		domain, err = publish.Domain(ctx, c.NC, names[0])
	}
	return names, domain, err
}

func (t *subjectTarget) deliver(ctx context.Context, m subscribe.Message) error {
	t.pending = append(t.pending, unconfirmed{event: m, msg: t.message(m)})
	t.bytes += len(m.Data)
	t.send(&t.pending[len(t.pending)-1])
	return t.settle(ctx, windowEvents, windowBytes)
}

func (t *subjectTarget) flush(ctx context.Context) error { return t.settle(ctx, 0, 0) }

// message returns the message to send. Its id is new, so that a stream does
// not take it for a duplicate, but the same whenever this replay sends it.
func (t *subjectTarget) message(m subscribe.Message) *nats.Msg {
	msg := &nats.Msg{Subject: t.subject, Header: nats.Header{}, Data: m.Data}
	if prefix, ok := strings.CutSuffix(t.subject, ">"); ok {
		_, tokens, _ := strings.Cut(m.Subject, ".")
		msg.Subject = prefix + tokens
	}
	for name, values := range m.Header {
		if !strings.HasPrefix(name, "Nats-") { // commands to a broker, or notes of one
			msg.Header[name] = values
		}
	}
	// A tombstone has an id of its own.
	msg.Header.Set(jetstream.MsgIDHeader, cmp.Or(m.Header.Get(jetstream.MsgIDHeader), m.ID)+t.suffix)
	msg.Header.Set(schema.HeaderOriginalID, m.ID)
	return msg
}

func (t *subjectTarget) send(u *unconfirmed) {
	if len(t.streams) == 0 {
		u.err = t.nc.PublishMsg(u.msg)
		return
	}
	u.future, u.err = t.js.PublishMsgAsync(u.msg, jetstream.WithRetryAttempts(0)) // or it would be out of order
}

// settle takes confirmations until no more events, and bytes, than these are
// unconfirmed, and those that are there already.
func (t *subjectTarget) settle(ctx context.Context, events, bytes int) error {
	for len(t.pending) > 0 {
		must := len(t.pending) > events || t.bytes > bytes
		r, err := t.confirmation(ctx, must)
		switch {
		case err == nil:
			t.bytes -= len(t.pending[0].event.Data)
			t.pending[0] = unconfirmed{} // its data is garbage now
			t.pending = t.pending[1:]
			t.failures = 0
			t.confirm(r)
		case errors.Is(err, errNotYet):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isRefusal(err), t.failures == sendAttempts:
			return undelivered(t.pending[0].event, err)
		default:
			pause := shortestPause << t.failures
			t.failures++
			t.note("%v; sending again in %v", undelivered(t.pending[0].event, err), pause)
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			if err := t.resend(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

var errNotYet = errors.New("not yet confirmed")

// confirmation returns the receipt of the first of the unconfirmed events. It
// waits only if it must.
func (t *subjectTarget) confirmation(ctx context.Context, must bool) (receipt, error) {
	first := &t.pending[0]
	r := receiptOf(first.event)
	switch {
	case first.err != nil:
		return r, first.err
	case first.future == nil:
		return r, t.passedOn(ctx, must)
	}
	select {
	case ack := <-first.future.Ok():
		return t.stored(r, ack)
	case first.err = <-first.future.Err(): // which has it once
		return r, first.err
	default:
	}
	if !must && !t.nc.IsClosed() {
		return r, errNotYet
	}
	select {
	case ack := <-first.future.Ok():
		return t.stored(r, ack)
	case first.err = <-first.future.Err():
		return r, first.err
	case <-t.closed: // what was sent gets no answer any more
		return r, nats.ErrConnectionClosed
	case <-ctx.Done():
		return r, context.Cause(ctx)
	case <-time.After(ackTimeout):
		return r, cmp.Or(t.nc.LastError(), fmt.Errorf("no acknowledgement within %v", ackTimeout))
	}
}

// stored checks an acknowledgement.
func (t *subjectTarget) stored(r receipt, ack *jetstream.PubAck) (receipt, error) {
	if !slices.Contains(t.streams, ack.Stream) {
		return r, fmt.Errorf("stream %s has it, not %s", ack.Stream, strings.Join(t.streams, " or "))
	}
	if ack.Domain != t.domain {
		return r, fmt.Errorf("stream %s of JetStream domain %q has it, not that of domain %q", ack.Stream, ack.Domain, t.domain)
	}
	r.duplicate = ack.Duplicate
	return r, nil
}

// passedOn waits until the server has passed on all that was sent.
func (t *subjectTarget) passedOn(ctx context.Context, must bool) error {
	if t.pending[0].passed {
		return nil
	}
	if !must {
		return errNotYet
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if err := t.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if err := t.nc.LastError(); err != nil { // it may not publish there
		return err
	}
	for i := range t.pending {
		t.pending[i].passed = t.pending[i].err == nil
	}
	return nil
}

// isRefusal reports whether sending again would not help.
func isRefusal(err error) bool {
	const storeFailed = 10077 // full, as a rule
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.Code != 503 || api.ErrorCode == storeFailed) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrPermissionViolation)
}

// resend sends all that is unconfirmed over a new connection. It waits for a
// broker that is away.
func (t *subjectTarget) resend(ctx context.Context) error {
	t.close()
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := t.connect()
		if err == nil {
			break
		}
		t.note("%v; trying again in %v", err, pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	for i := range t.pending {
		u := &t.pending[i]
		u.future, u.err, u.passed = nil, nil, false
		t.send(u)
	}
	return nil
}

func (t *subjectTarget) connect() (err error) {
	closed := make(chan struct{})
	t.closed = closed
	t.nc, err = broker.Connect(t.settings, "replay", nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	t.js, err = jetstream.New(t.nc)
	return err
}

func (t *subjectTarget) close() {
	if t.nc != nil {
		t.nc.Close()
	}
}
