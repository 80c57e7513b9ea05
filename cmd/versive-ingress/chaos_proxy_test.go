package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A proxy stands between a client and a NATS server, or between two servers,
// and can cut them off from each other or tamper with the messages of the server.
type proxy struct {
	listener net.Listener
	target   string
	judge    func() verdict // on a message of the server; called by one goroutine at a time
	running  sync.WaitGroup
	passing  sync.RWMutex // held by stall, and shared by each write

	limit    int          // bytes a second from the client; 0 is no limit; set by newSlowProxy
	uploaded atomic.Int64 // bytes from clients, with a limit
	attempts atomic.Int64 // connections that were accepted

	mu      sync.Mutex
	severed bool              // no connection is let through; guarded by mu
	conns   map[net.Conn]bool // of both sides; guarded by mu
}

// A verdict decides what is done with a message. Zero passes it on.
type verdict struct {
	delay time.Duration // of this and all after it
	drop  bool
	cut   bool // passes half of it, and closes the connection
}

// newProxy starts a proxy. With judge nil it passes everything on, and need not
// understand it.
func newProxy(t testing.TB, target string, judge func() verdict) *proxy {
	t.Helper()
	return startProxy(t, &proxy{target: target, judge: judge})
}

// newSlowProxy starts a proxy that passes on so many bytes a second from each client.
func newSlowProxy(t testing.TB, target string, limit int) *proxy {
	t.Helper()
	return startProxy(t, &proxy{target: target, limit: limit})
}

func startProxy(t testing.TB, p *proxy) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listener, p.conns = listener, make(map[net.Conn]bool)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.sever()
		p.running.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// sever cuts all connections, and lets none through until restore.
func (p *proxy) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.severed = true
	for conn := range p.conns {
		conn.Close()
	}
}

func (p *proxy) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.severed = false
}

// stall keeps everything on the way, and all connections open, until the returned
// function is called.
func (p *proxy) stall() (resume func()) {
	p.passing.Lock()
	return p.passing.Unlock
}

// A passage is one direction of a connection through a proxy.
type passage struct {
	io.Writer
	proxy *proxy
}

func (w passage) Write(b []byte) (int, error) {
	w.proxy.passing.RLock()
	defer w.proxy.passing.RUnlock()
	return w.Writer.Write(b)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.attempts.Add(1)
		server, err := net.Dial("tcp", p.target)
		if err != nil || !p.admit(client, server) {
			client.Close()
			if err == nil {
				server.Close()
			}
			continue
		}
		p.running.Go(func() {
			defer p.dismiss(client, server)
			if p.limit > 0 {
				p.throttle(passage{server, p}, client)
			} else {
				_, _ = io.Copy(passage{server, p}, client)
			}
		})
		p.running.Go(func() {
			defer p.dismiss(client, server)
			if p.judge == nil {
				_, _ = io.Copy(passage{client, p}, server)
			} else {
				p.relay(passage{client, p}, bufio.NewReader(server))
			}
		})
	}
}

func (p *proxy) admit(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = true
	}
	if p.severed {
		for _, conn := range conns {
			delete(p.conns, conn)
		}
	}
	return !p.severed
}

func (p *proxy) dismiss(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
		delete(p.conns, conn)
	}
}

// throttle passes on what the client sends, not faster than limit, and with little in its
// buffers.
func (p *proxy) throttle(server io.Writer, client net.Conn) {
	_ = client.(*net.TCPConn).SetReadBuffer(256 << 10)
	piece := make([]byte, 16<<10)
	for due := time.Now(); ; time.Sleep(time.Until(due)) {
		n, err := client.Read(piece)
		if err == nil {
			_, err = server.Write(piece[:n])
		}
		if err != nil {
			return
		}
		p.uploaded.Add(int64(n))
		if now := time.Now(); due.Before(now.Add(-time.Second)) { // it was idle
			due = now
		}
		due = due.Add(time.Duration(n) * time.Second / time.Duration(p.limit))
	}
}

// relay passes on the messages of a server, protocol line by protocol line, until
// one of the connections ends or a verdict cuts it.
func (p *proxy) relay(client io.Writer, server *bufio.Reader) {
	for {
		frame, isMessage, err := readFrame(server)
		if err != nil {
			return
		}
		var v verdict
		if isMessage {
			v = p.verdict()
		}
		time.Sleep(v.delay)
		switch {
		case v.drop:
			continue
		case v.cut:
			_, _ = client.Write(frame[:len(frame)/2])
			return
		}
		if _, err := client.Write(frame); err != nil {
			return
		}
	}
}

func (p *proxy) verdict() verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.judge()
}

// readFrame reads one line of the NATS client protocol, with the payload that
// follows a message's.
func readFrame(r *bufio.Reader) (frame []byte, isMessage bool, err error) {
	frame, err = r.ReadBytes('\n')
	if err != nil {
		return nil, false, err
	}
	if !bytes.HasPrefix(frame, []byte("MSG ")) && !bytes.HasPrefix(frame, []byte("HMSG ")) {
		return frame, false, nil
	}
	words := bytes.Fields(frame)
	size, err := strconv.Atoi(string(words[len(words)-1]))
	if err != nil {
		return nil, false, err
	}
	payload := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, false, err
	}
	return append(frame, payload...), true, nil
}
