package main

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

// Limits of a listener's connections, by class. One that is new holds some
// 50 KiB at most, with HTTP/2 about 1 MiB: maxStreams requests with large
// headers, and window.
const (
	maxNewConns     = 2048
	maxNewHTTP2     = 128
	maxTrustedConns = 4096

	// The socket of a connection that was shed stays open, and holds nothing
	// else: a client that waits does not connect again.
	parkTime  = 30 * time.Second
	maxParked = 4096

	// openFiles is the limit of open files (ulimit -n) for which the limits above
	// are made: some 10,000 are for a listener, and the others for the store and
	// its subscribers.
	openFiles = 16 << 10
)

// ofFiles returns the part of a limit of connections that the process's limit of
// open files allows for. The embedded broker cannot write without files.
func ofFiles(limit int) int {
	var files syscall.Rlimit // Go has raised it as far as that is allowed
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur >= openFiles {
		return limit
	}
	return max(1, limit*int(files.Cur)/openFiles)
}

// A connLimiter is a listener that bounds how many connections are open, and
// so what all requests in progress can hold. A connection is new until a
// webhook that came on it is verified; then it is trusted. When a class has one
// too many, its first is shed: of the new ones the oldest, which a sender's is
// not, for its webhook is verified as soon as it has arrived; of the trusted
// ones that whose last webhook is the oldest.
type connLimiter struct {
	net.Listener
	shed     prometheus.Counter
	parkTime time.Duration

	mu                          sync.Mutex // guards what follows
	newConns, newHTTP2, trusted connClass
	parked                      int
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

// enter makes c the last of a class.
func (c *limitedConn) enter(class *connClass) {
	if first := c.take(class); first != nil {
		c.limiter.park(first.TCPConn)
		first.TCPConn.Close()
		c.limiter.shed.Inc()
	}
}

// take makes c the last of a class and returns the first if it has to go.
func (c *limitedConn) take(class *connClass) (first *limitedConn) {
	c.limiter.mu.Lock()
	defer c.limiter.mu.Unlock()
	switch {
	case c.closed:
		return nil
	case c.class == class:
		class.MoveToBack(c.place)
		return nil
	case c.class != nil:
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

// park keeps a connection's socket open for parkTime after c is closed, unless
// too many are parked.
func (l *connLimiter) park(c *net.TCPConn) {
	socket, err := c.File()
	if err != nil {
		return // the client has gone, or too many files are open
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := l.parkTime
	if l.parked++; l.parked > ofFiles(maxParked) {
		wait = 0
	}
	time.AfterFunc(wait, func() {
		socket.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.parked--
	})
}

// Close closes the connection and gives its place to others.
func (c *limitedConn) Close() error {
	c.limiter.mu.Lock()
	if !c.closed {
		c.closed = true
		c.class.Remove(c.place)
	}
	c.limiter.mu.Unlock()
	return c.TCPConn.Close()
}

type connKey struct{}

// withConn is the hook by which requests know their connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, limited(c))
}

func connOf(ctx context.Context) *limitedConn { return ctx.Value(connKey{}).(*limitedConn) }

func limited(c net.Conn) *limitedConn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return c.(*limitedConn)
}

// trustConn is called when a webhook has been verified.
func trustConn(ctx context.Context) {
	c := connOf(ctx)
	c.enter(&c.limiter.trusted)
}

// markServed notes that a connection has brought a request.
func markServed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := connOf(r.Context()); !c.served.Load() {
			c.served.Store(true)
		}
		h.ServeHTTP(w, r)
	})
}

// trackConn is the hook for a connection's states. One that is idle before the
// handler had a request from it speaks HTTP/2: net/http has read the preface or
// has refused all requests by itself. Only over HTTP/1 does net/http bound how
// long the first one may take.
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
