package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Limits of both HTTP servers. The body of a webhook has a deadline of its own; see
// package ingest.
const (
	headerTimeout = 5 * time.Second
	// answerTimeout counts from the end of the headers. It is longer than the body's
	// deadline and INGRESS_PUBLISH_TIMEOUT can be together.
	answerTimeout = 20 * time.Second
	// idleTimeout is longer than load balancers keep idle connections, so that none sends a
	// webhook on one that is being closed. Google's keep them for 10 minutes.
	idleTimeout = 11 * time.Minute
	maxHeader   = 16 << 10 // bytes

	// Limits of an HTTP/2 connection: concurrent requests, and bytes of their
	// bodies that have arrived and are not yet read. A window of this size lets
	// the largest body arrive in time over a round trip of 300 ms.
	maxStreams = 32
	window     = 512 << 10
	// maxFrame is in bytes. net/http allocates it when a frame announces it.
	maxFrame = 16 << 10
)

// newHTTPServer returns a server for serve, which logs the protocol errors of
// clients at debug level: forgers must not fill the log.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // for proxies that speak it
	return &http.Server{
		Handler:           markServed(h),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: window,
			MaxReceiveBufferPerStream:     window,
			// A client that stops in the middle of a frame cannot answer a ping.
			SendPingTimeout:  headerTimeout,
			PingTimeout:      headerTimeout,
			WriteByteTimeout: headerTimeout,
		},
		ConnContext: withConn,
		ConnState:   trackConn,
		// Otherwise net/http answers "OPTIONS *" by 200 itself.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) listenAdmin(context.Context) error {
	// Its requests have no body, and net/http waits for one that is announced.
	s.admin.ReadTimeout = headerTimeout
	listener, err := listen("INGRESS_ADMIN_LISTEN", s.settings.AdminListen)
	if err != nil {
		return err
	}
	s.settings.AdminListen = listener.Addr().String()
	s.serve("admin", s.admin, listener)
	return nil
}

// listen opens the listener of a setting.
func listen(setting, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, fs.ErrPermission):
		_, port, _ := net.SplitHostPort(address)
		return nil, fmt.Errorf("%s: %w: uid %d may not use a port below 1024; choose another, or run: sudo sysctl net.ipv4.ip_unprivileged_port_start=%s", setting, err, os.Geteuid(), port)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return listener, nil
}

// listenWebhook opens the webhook listener, with TLS if it is configured.
func (s *Server) listenWebhook(context.Context) error {
	if s.settings.TLSCert != "" {
		if err := s.configureTLS(); err != nil {
			return err
		}
	}
	listener, err := listen("INGRESS_LISTEN", s.settings.Listen)
	if err != nil {
		return err
	}
	s.settings.Listen = listener.Addr().String()
	if conns := ofFiles(maxNewConns); conns < maxNewConns {
		s.log.Warn("limit of open files is low, so fewer connections are accepted", "new_connections", conns, "usual", maxNewConns,
			"remedy", fmt.Sprintf("allow %d open files: ulimit -n, or LimitNOFILE of systemd", openFiles))
	}
	s.serve("webhook", s.webhook, listener)
	return nil
}

// serve runs server in the background, until it is closed, on a listener with
// limits. name is that of the listener in metrics.
func (s *Server) serve(name string, server *http.Server, listener net.Listener) {
	shed := promauto.With(s.metrics).NewCounter(prometheus.CounterOpts{
		Name:        "versive_ingress_connections_shed_total",
		Help:        "Connections closed in favour of newer ones, because too many were open.",
		ConstLabels: prometheus.Labels{"listener": name},
	})
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	go func() {
		if err := serve(limitConns(listener, shed)); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("listener %s: %w", listener.Addr(), err)
		}
	}()
}
