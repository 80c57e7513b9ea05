package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// Limits of the servers. The body has a deadline of its own; see package
// ingest.
const (
	headerTimeout = 5 * time.Second
	// answerTimeout is from the end of the headers: longer than the body's
	// deadline and INGRESS_PUBLISH_TIMEOUT can be together.
	answerTimeout = 20 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10

	// Limits of an HTTP/2 connection: concurrent requests, and bytes of their
	// bodies that have arrived and are not yet read. A window of this size lets
	// the largest body arrive in time over a round trip of 300 ms.
	maxStreams = 32
	window     = 512 << 10
	// maxFrame is in bytes. net/http allocates it when a frame announces it.
	maxFrame = 16 << 10
)

// newShedMetric returns the metric of a connLimiter, by the listener's name.
func newShedMetric(r prometheus.Registerer) *prometheus.CounterVec {
	return promauto.With(r).NewCounterVec(prometheus.CounterOpts{
		Name: "versive_ingress_connections_shed_total",
		Help: "Connections closed in favour of newer ones, because too many were open.",
	}, []string{"listener"})
}

// newServer returns a server that serve can run.
func (i *ingress) newServer(h http.Handler) *http.Server {
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
		// Protocol errors of clients; forgers must not fill the log.
		ErrorLog: slog.NewLogLogger(i.log.Handler(), slog.LevelDebug),
	}
}

// serve runs a server of newServer until it is closed.
func (i *ingress) serve(server *http.Server, listener net.Listener, shed prometheus.Counter) {
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	if err := serve(limitConns(listener, shed)); !errors.Is(err, http.ErrServerClosed) {
		i.failed <- fmt.Errorf("listener %s: %w", listener.Addr(), err)
	}
}

// listen opens the webhook listener, with TLS if it is configured.
func (i *ingress) listen(metrics prometheus.Registerer, shed prometheus.Counter) error {
	s := i.settings
	server := i.newServer(http.HandlerFunc(i.serveWebhook))
	scheme := "http"
	if s.TLSCert != "" {
		var err error
		if i.certificate, err = newCertificate(s.TLSCert, s.TLSKey); err != nil {
			return err
		}
		i.certificate.register(metrics)
		server.TLSConfig = i.certificate.tlsConfig()
		scheme = "https"
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("INGRESS_LISTEN: %w", err)
	}
	if conns := ofFiles(maxNewConns); conns < maxNewConns {
		i.log.Warn("limit of open files is low, so fewer connections are accepted", "new_connections", conns, "usual", maxNewConns,
			"remedy", fmt.Sprintf("allow %d open files: ulimit -n, or LimitNOFILE of systemd", openFiles))
	}
	address, _ := config.Local(listener.Addr().String()) // the port may be one that the system chose
	i.url = scheme + "://" + address + s.Path
	i.webhook = server
	go i.serve(server, listener, shed)
	return nil
}
