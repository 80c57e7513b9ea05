package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of a listener's connections, by class. A new connection holds some 50 KiB
// at most, and with HTTP/2 about 1 MiB: maxStreams requests with large headers, and
// window.
const (
	maxNewConns     = 2048
	maxNewHTTP2     = 128
	maxTrustedConns = 4096

	// The socket of a connection that was shed stays open for a while, without
	// anything else in memory: a client that waits does not connect again.
	parkTime  = 30 * time.Second
	maxParked = 4096

	// openFiles is the limit of open files (ulimit -n) that the limits above
	// require: some 10,000 are for a listener, and the others for the store and its
	// subscribers.
	openFiles = 16 << 10
)

// ofFiles returns the part of a limit of connections that the process's limit of
// open files allows: the embedded broker cannot write without files.
func ofFiles(limit int) int {
	var files syscall.Rlimit // Go has raised it as far as that is allowed
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur >= openFiles {
		return limit
	}
	return max(1, limit*int(files.Cur)/openFiles)
}

// A connLimiter is a listener that bounds how many connections are open, and so the
// memory of all requests in progress. A connection is new until a webhook that
// arrived on it is verified; then it is trusted. When a class has too many, its
// first is shed. Among the trusted ones, that is the one whose last webhook is the
// oldest; among the new ones, it is the oldest, which is hardly a sender's, because
// a webhook is verified as soon as it has arrived.
type connLimiter struct {
	net.Listener
	shed     prometheus.Counter
	parkTime time.Duration
	parked   atomic.Int32

	mu                          sync.Mutex // guards the classes
	newConns, newHTTP2, trusted connClass
}

// A connClass is a list of *limitedConn.
type connClass struct {
	list.List
	limit int
}

func limitConns(l net.Listener, shed prometheus.Counter) *connLimiter {
	return &connLimiter{
		Listener: l,
		shed:     shed,
		parkTime: parkTime,
		newConns: connClass{limit: ofFiles(maxNewConns)},
		newHTTP2: connClass{limit: ofFiles(maxNewHTTP2)},
		trusted:  connClass{limit: ofFiles(maxTrustedConns)},
	}
}

// A limitedConn is a connection that a connLimiter has accepted.
type limitedConn struct {
	*net.TCPConn
	limiter *connLimiter
	served  atomic.Bool // whether a request has reached the handler
	http2   bool        // whether it is known to speak HTTP/2; owned by trackConn

	// Guarded by limiter.mu.
	class  *connClass
	place  *list.Element
	closed bool
}

// Accept waits for the next connection.
func (l *connLimiter) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &limitedConn{TCPConn: accepted.(*net.TCPConn), limiter: l}
	c.enter(&l.newConns)
	return c, nil
}

// enter makes c the last of a class, and sheds the first of too many.
func (c *limitedConn) enter(class *connClass) {
	if first := c.move(class); first != nil {
		c.limiter.park(first.TCPConn)
		first.TCPConn.Close()
		c.limiter.shed.Inc()
	}
}

// move makes c the last of a class. If there are too many, it removes the first and
// returns it.
func (c *limitedConn) move(class *connClass) (first *limitedConn) {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	if c.closed {
		return nil
	}
	if c.class != nil {
		c.class.Remove(c.place)
	}
	c.class, c.place = class, class.PushBack(c)
	if class.Len() <= class.limit {
		return nil
	}
	first = class.Remove(class.Front()).(*limitedConn)
	first.closed = true
	return first
}

// park keeps a connection's socket open for parkTime after c is closed, unless too
// many are parked.
func (l *connLimiter) park(c *net.TCPConn) {
	if int(l.parked.Load()) >= ofFiles(maxParked) {
		return
	}
	socket, err := c.File()
	if err != nil {
		return // the client has gone, or too many files are open
	}
	l.parked.Add(1)
	time.AfterFunc(l.parkTime, func() {
		socket.Close()
		l.parked.Add(-1)
	})
}

// Close closes the connection and frees its place.
func (c *limitedConn) Close() error {
	c.limiter.mu.Lock()
	if !c.closed {
		c.closed = true
		c.class.Remove(c.place)
	}
	c.limiter.mu.Unlock()
	return c.TCPConn.Close()
}

func limited(c net.Conn) *limitedConn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return c.(*limitedConn)
}

type connKey struct{}

// withConn is the hook by which requests know their connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, limited(c))
}

func connOf(ctx context.Context) *limitedConn { return ctx.Value(connKey{}).(*limitedConn) }

// trustConn is called when a webhook has been verified.
func trustConn(ctx context.Context) {
	c := connOf(ctx)
	c.enter(&c.limiter.trusted)
}

// markServed notes that a request has reached the handler.
func markServed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connOf(r.Context()).served.Store(true)
		h.ServeHTTP(w, r)
	})
}

// trackConn is the hook for a connection's states. A connection that is idle before
// a request has reached the handler speaks HTTP/2: net/http has read the preface, or
// has refused all requests by itself. Only over HTTP/1 does net/http bound how long
// the first request may take.
func trackConn(nc net.Conn, state http.ConnState) {
	c := limited(nc)
	if c.served.Load() {
		return
	}
	switch {
	case state == http.StateIdle:
		if !c.http2 {
			c.http2 = true
			c.enter(&c.limiter.newHTTP2)
		}
		_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	case state == http.StateActive && c.http2:
		_ = c.SetReadDeadline(time.Time{})
	}
}
