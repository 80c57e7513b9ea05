package server

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/net/http2"

	"versive-ingress/publish/embedded/embeddedtest"
)

// When a class of connections has one too many, its first is closed, and no
// other: of the new ones the oldest, of the trusted ones the least recently
// used.
func TestConnLimit(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limiter := limitConns(listener, prometheus.NewCounter(prometheus.CounterOpts{Name: "shed"}))
	limiter.parkTime = 0
	for _, class := range []*connClass{&limiter.newConns, &limiter.newHTTP2, &limiter.trusted} {
		class.limit = 2
	}
	server := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trustConn(r.Context())
		w.WriteHeader(http.StatusNoContent)
	}), slog.New(slog.DiscardHandler))
	// Nothing but the limits closes a connection here, however slow the machine is.
	server.ReadHeaderTimeout, server.HTTP2.SendPingTimeout = 0, 0
	server.ConnState = func(c net.Conn, state http.ConnState) {
		trackConn(c, state)
		_ = limited(c).SetReadDeadline(time.Time{})
	}
	served := make(chan error)
	go func() { served <- server.Serve(limiter) }()

	dial := func() *http2Client {
		t.Helper()
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(embeddedtest.Timeout)); err != nil {
			t.Fatal(err)
		}
		return &http2Client{t, conn, http2.NewFramer(conn, conn), 1}
	}
	speakHTTP2 := func() *http2Client {
		t.Helper()
		c := dial()
		c.write(http2.ClientPreface)
		if err := c.framer.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		c.await(func(f http2.Frame) bool {
			settings, ok := f.(*http2.SettingsFrame)
			if ok {
				if most, _ := settings.Value(http2.SettingMaxConcurrentStreams); most != maxStreams {
					t.Errorf("a client may open %d streams, want %d", most, maxStreams)
				}
			}
			return ok
		})
		c.ping()
		return c
	}

	trusted := speakHTTP2()
	trusted.get()
	first, second, third := speakHTTP2(), speakHTTP2(), speakHTTP2()
	first.requireClosed()
	for _, c := range []*http2Client{trusted, second, third} {
		c.ping()
	}

	other := speakHTTP2() // the third of its class
	second.requireClosed()
	other.get()
	trusted.get()
	third.get() // the third of the trusted ones
	other.requireClosed()
	trusted.ping()

	silent := []*http2Client{dial(), dial(), dial()}
	silent[0].requireClosed()
	trusted.ping()

	var shed dto.Metric
	if err := limiter.shed.Write(&shed); err != nil || shed.GetCounter().GetValue() != 4 {
		t.Errorf("%v connections were shed, want 4 (%v)", shed.GetCounter().GetValue(), err)
	}
	server.Close()
	if err := embeddedtest.Receive(t, "the server ends", served); !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	embeddedtest.Await(t, "all places are free", func() bool {
		limiter.mu.Lock()
		defer limiter.mu.Unlock()
		return limiter.newConns.Len()+limiter.newHTTP2.Len()+limiter.trusted.Len()+int(limiter.parked.Load()) == 0
	})
}

// An http2Client speaks HTTP/2 frame by frame.
type http2Client struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	next   uint32 // stream
}

func (c *http2Client) write(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// await reads frames until one is wanted.
func (c *http2Client) await(wanted func(http2.Frame) bool) {
	c.t.Helper()
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			c.t.Fatal(err)
		}
		if wanted(frame) {
			return
		}
	}
}

// requireClosed waits until the server has closed the connection.
func (c *http2Client) requireClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		c.t.Fatal("the connection is still open")
	}
}

// get sends a request and waits for the end of the answer.
func (c *http2Client) get() {
	c.t.Helper()
	headers := []byte{0x82, 0x84, 0x86, 0x41, 1, 'x'} // GET http://x/
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: headers, EndHeaders: true, EndStream: true}); err != nil {
		c.t.Fatal(err)
	}
	c.next += 2
	c.await(func(f http2.Frame) bool { h, ok := f.(*http2.HeadersFrame); return ok && h.StreamEnded() })
}

// ping waits for an answer to all frames that were sent.
func (c *http2Client) ping() {
	c.t.Helper()
	if err := c.framer.WritePing(false, [8]byte{}); err != nil {
		c.t.Fatal(err)
	}
	c.await(func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() })
}
