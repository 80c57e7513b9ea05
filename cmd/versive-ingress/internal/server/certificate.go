package server

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A certificate is that of the webhook listener, from files that may change.
type certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

func loadCertificate(certFile, keyFile string, metrics prometheus.Registerer) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, err
	}
	promauto.With(metrics).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate of the webhook listener expires.",
	}, func() float64 { return float64(c.current.Load().Leaf.NotAfter.Unix()) })
	return c, nil
}

// load reads the files. An expired certificate is better than none at the start,
// but does not replace another one.
func (c *certificate) load() error {
	next, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("INGRESS_TLS_CERT and INGRESS_TLS_KEY: %w", err)
	}
	if until := next.Leaf.NotAfter; c.current.Load() != nil && time.Now().After(until) {
		return fmt.Errorf("INGRESS_TLS_CERT: %s has expired, on %s", c.certFile, until.UTC().Format(time.RFC3339))
	}
	c.current.Store(&next)
	return nil
}

// tlsConfig returns a configuration that uses the current certificate for each
// handshake.
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
