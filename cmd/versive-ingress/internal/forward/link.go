package forward

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// dialTimeout bounds an attempt to connect to a server of the hub.
	dialTimeout = 2 * time.Second
	// pieceSize is how many bytes of a write must pass in pieceTimeout, so that a large
	// message passes a slow link, and a link that is cut is noticed.
	pieceSize, pieceTimeout = 64 << 10, 10 * time.Second
	// sendBuffer bounds the bytes that the system has taken and not sent, behind which
	// pings wait.
	sendBuffer = 512 << 10
	// closeTimeout is how long the connection can be written to after the forwarder was stopped.
	closeTimeout = time.Second
	// pingInterval is the time between two pings of the hub. The third that is not answered
	// ends the connection.
	pingInterval = 30 * time.Second
)

// A dialer connects to the hub. What it writes ends with ctx.
type dialer struct{ ctx context.Context }

// Dial implements [nats.CustomDialer].
func (d dialer) Dial(network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // more would only make pings wait longer
	}
	return conn{c, d.ctx}, nil
}

// A conn is a connection on which a write may take as long as it makes progress. A
// deadline for all of it would also be one for the size of an event.
type conn struct {
	net.Conn
	ctx context.Context
}

func (c conn) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if c.ctx.Err() != nil {
			return n, context.Cause(c.ctx)
		}
		_ = c.Conn.SetWriteDeadline(time.Now().Add(pieceTimeout)) // fails if Write does
		var written int
		written, err = c.Conn.Write(p[n:min(n+pieceSize, len(p))])
		n += written
	}
	return n, err
}

func (c conn) SetWriteDeadline(time.Time) error { return nil }

func (c conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

const (
	// batchTime is how long a batch may take, as far as the rate of the link is known.
	batchTime = time.Second
	// minBatchBytes and maxBatchBytes bound the data of a batch, unless it is one message.
	minBatchBytes, maxBatchBytes = 16 << 10, 2 << 20
	// storeTimeout is how long the hub may take for a batch that has arrived, and
	// maxStoreTimeout bounds the time for all of it.
	storeTimeout, maxStoreTimeout = 5 * time.Second, 5 * time.Minute
	// assumedRate is the rate of the link in bytes a second at the start, and minRate the
	// lowest that is assumed after timeouts.
	assumedRate, minRate = 128 << 10, 4 << 10
)

// A rate is how many bytes a second the link passes, as far as it is known.
type rate float64

// batch returns how many bytes of data a batch may have, unless it is one message.
func (r rate) batch() int {
	return min(max(int(float64(r)*batchTime.Seconds()), minBatchBytes), maxBatchBytes)
}

// timeout returns how long a batch of size bytes may take. A link can pass small batches
// faster than large ones. If it is cut while much is sent, the writes fail sooner.
func (r rate) timeout(size int) time.Duration {
	return min(storeTimeout+time.Duration(4*float64(size)/float64(min(r, assumedRate))*float64(time.Second)), maxStoreTimeout)
}

// observe takes the outcome of a batch into account. That of a small one depends on how
// long an answer takes, and is no evidence of a slow link.
func (r *rate) observe(size int, took time.Duration, err error) {
	seen := rate(float64(size) / max(took, time.Millisecond).Seconds())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		*r = max(*r/2, minRate)
	case err == nil && (seen > *r || size >= r.batch()/2):
		*r = max(seen, minRate)
	}
}
