package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// dialTimeout bounds a connection attempt and a write to the connection. The
	// latter must be short: nats.go writes with its lock held, so a broker that does
	// not read would block every caller beyond its deadline.
	dialTimeout = 2 * time.Second
	// retryWait is the time between attempts to reach the broker.
	retryWait = time.Second
)

// A session is a time in which the broker can answer. Its context is cancelled on
// disconnect, and when the broker is found unable to store messages.
type session struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// newSession ends the previous session for the given reason.
func (p *Publisher) newSession(cause error) { renew(&p.session, cause) }

// renew replaces a session, and ends the previous one for the given reason.
func renew(s *atomic.Pointer[session], cause error) {
	ctx, end := context.WithCancelCause(context.Background())
	if previous := s.Swap(&session{ctx, end}); previous != nil {
		previous.end(cause)
	}
}

// open connects to the broker and opens the streams.
func (p *Publisher) open(ctx context.Context) error {
	log := p.cfg.Logger
	closed, closing := make(chan struct{}), new(atomic.Bool)
	p.closed, p.closing = closed, closing
	var lastError string // the last one that was logged, and its time; owned by the connection's goroutine for callbacks
	var lastLogged time.Time
	options := append([]nats.Option{
		nats.Name("versive-ingress"),
		nats.Timeout(dialTimeout),
		nats.FlusherTimeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(retryWait / 4),
		// A message that is buffered during a reconnect would be stored long after
		// Publish has returned an error.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			p.newSession(errDisconnected)
			if err != nil { // nil if we have closed the connection
				log.Warn("broker connection lost", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { p.dialError.Store(&err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			p.dialError.Store(nil)
			log.Info("broker connection is back", "broker", nc.ConnectedAddr())
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			if err := nc.LastError(); err != nil && !closing.Load() {
				log.Error("broker connection is closed permanently", "error", err)
			}
			close(closed)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) { // repeated with each request
				if _, logged := p.denied.LoadOrStore(deniedSubject(err), true); logged {
					return
				}
			}
			if err.Error() != lastError || time.Since(lastLogged) > maxPause { // an attempt to reconnect may repeat it
				lastError, lastLogged = err.Error(), time.Now()
				log.Error("broker reported an error", "error", err)
			}
		}),
	}, p.cfg.Options...)

	var err error
	if p.nc, err = nats.Connect(p.cfg.URL, options...); err != nil {
		return p.cfg.Explain(err)
	}
	p.metrics.conn.Store(p.nc)
	if p.js, err = jetstream.New(p.nc); err != nil {
		return err
	}
	return p.ensureAll(ctx)
}

// deniedSubject returns the text of a permission violation, without the last token
// of the subject of a consumer or an inbox, which differs each time.
func deniedSubject(err error) string {
	text := err.Error()
	if i := strings.LastIndexByte(text, '.'); i >= 0 && !strings.Contains(text, ".STREAM.") {
		return text[:i]
	}
	return text
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
		p.committers[kind].batching = p.cfg.batches(&stream.CachedInfo().Config)
	}
	if HasOneReplica(p.nc, p.streams[schema.KindEvent].CachedInfo()) {
		p.cfg.Logger.Warn("streams have one replica on a cluster: events are lost with the disk of one server, and cannot be stored while it is away",
			"remedy", "set "+p.cfg.replicasName()+"=3 and restart")
	}
	var err error
	p.domain, err = Domain(ctx, p.nc, p.cfg.Stream)
	return err
}

// HasOneReplica reports whether nc is connected to a cluster, and the stream is on only one
// of its servers.
func HasOneReplica(nc *nats.Conn, stream *jetstream.StreamInfo) bool {
	cluster := nc.ConnectedClusterName() // of a single server with leaf nodes, its own name
	return stream.Config.Replicas == 1 && cluster != "" && cluster != nc.ConnectedServerName()
}

// disconnected returns an error that explains why there is no connection.
func (p *Publisher) disconnected() error {
	err := p.nc.LastError() // of the last handshake; nil if the address could not be dialled
	if dial := p.dialError.Load(); err == nil && dial != nil {
		err = *dial
	}
	return p.cfg.Explain(cmp.Or(err, nats.ErrNoServers))
}

// IsAuthError reports whether the broker has rejected the credentials.
func IsAuthError(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// Closed returns a channel that is closed when the connection is permanently
// closed, by Close or after an error of the broker from which nats.go does not
// reconnect. From then on every Publish fails, so the program should restart.
func (p *Publisher) Closed() <-chan struct{} { return p.closed }

// Close closes the connection. A Publish in flight fails.
func (p *Publisher) Close() {
	if p.nc != nil {
		p.closing.Store(true)
	}
	if p.stop != nil {
		p.stop()
		p.stopped.Wait()
		_ = p.check(context.Background())
		if err := p.marks.sync(context.Background()); err != nil {
			p.cfg.Logger.Error(marksNotSaved, "error", err)
		}
	}
	if p.nc != nil {
		p.nc.Close()
	}
}

// Addresses returns a comma-separated list of broker URLs without credentials, for
// display. An entry that cannot be parsed becomes "(not a URL)".
func Addresses(list string) string {
	urls := strings.Split(list, ",")
	for i, address := range urls {
		address = strings.TrimSpace(address)
		if !strings.Contains(address, "://") { // as nats.go reads it
			address = "nats://" + address
		}
		urls[i] = "(not a URL)"
		if u, err := url.Parse(address); err == nil {
			urls[i] = u.Scheme + "://" + u.Host
		}
	}
	return strings.Join(urls, ",")
}

// Domain returns the JetStream domain in which nc finds a stream, or "" if its
// servers have no domain. The stream's acknowledgements name the same domain.
//
// A stream with the same name or subjects can exist in another domain. Across a leaf
// node connection it stores and acknowledges the same messages, while requests to
// the JetStream API stay within one domain.
func Domain(ctx context.Context, nc *nats.Conn, stream string) (string, error) {
	var info struct {
		Domain string              `json:"domain"`
		Error  *jetstream.APIError `json:"error"`
	}
	answer, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+stream, nil)
	if err == nil {
		err = json.Unmarshal(answer.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err != nil {
		return "", fmt.Errorf("looking up the domain of stream %s: %w", stream, err)
	}
	return info.Domain, nil
}

// errForeignAck means that another stream has acknowledged a message, which the
// intended stream may not have.
var errForeignAck = errors.New("acknowledged by another stream")

// checkAck returns an error if the stream and domain of an acknowledgement are not
// those of this publisher's stream called name.
func (p *Publisher) checkAck(name, stream, domain string) error {
	switch {
	case stream != name:
		return fmt.Errorf("%w: the subject belongs to stream %s, not %s", errForeignAck, stream, name)
	case domain != p.domain:
		return fmt.Errorf("%w: stream %s of JetStream domain %q has answered instead of that of domain %q; "+
			"give the other one different subjects, or restart the ingress if the domain of its broker has changed", errForeignAck, stream, domain, p.domain)
	}
	return nil
}
