package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10 // bytes

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

// listen opens a listener, runs server on it until it is closed, and sets address,
// of the named setting, to the listener's. shed counts the connections that the
// limits close.
func (s *Server) listen(name string, address *string, server *http.Server, shed prometheus.Counter) error {
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*address = listener.Addr().String()
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	go func() {
		if err := serve(limitConns(listener, shed)); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("listener %s: %w", listener.Addr(), err)
		}
	}()
	return nil
}

// listenAdmin opens the admin listener.
func (s *Server) listenAdmin(shed *prometheus.CounterVec) error {
	// Its requests have no body, and net/http waits for one that is announced.
	s.admin.ReadTimeout = headerTimeout
	return s.listen("INGRESS_ADMIN_LISTEN", &s.settings.AdminListen, s.admin, shed.WithLabelValues("admin"))
}

// listenWebhook opens the webhook listener, with TLS if it is configured.
func (s *Server) listenWebhook(shed *prometheus.CounterVec) error {
	if s.settings.TLSCert != "" {
		var err error
		if s.certificate, err = loadCertificate(s.settings.TLSCert, s.settings.TLSKey, s.metrics); err != nil {
			return err
		}
		s.webhook.TLSConfig = s.certificate.tlsConfig()
	}
	if conns := ofFiles(maxNewConns); conns < maxNewConns {
		s.log.Warn("limit of open files is low, so fewer connections are accepted", "new_connections", conns, "usual", maxNewConns,
			"remedy", fmt.Sprintf("allow %d open files: ulimit -n, or LimitNOFILE of systemd", openFiles))
	}
	return s.listen("INGRESS_LISTEN", &s.settings.Listen, s.webhook, shed.WithLabelValues("webhook"))
}

// newShedMetric returns the metric of limitConns, by listener.
func newShedMetric(r prometheus.Registerer) *prometheus.CounterVec {
	return promauto.With(r).NewCounterVec(prometheus.CounterOpts{
		Name: "versive_ingress_connections_shed_total",
		Help: "Connections closed in favour of newer ones, because too many were open.",
	}, []string{"listener"})
}
