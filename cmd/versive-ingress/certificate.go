package main

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A certificate is the server's own, from files that may change.
type certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.load()
}

// load takes the files into use. One that has expired is better than none at
// the start, but no reason to part with another.
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

// tlsConfig returns what serves the certificate of the moment: a handshake
// that has begun keeps the one that it began with.
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

func (c *certificate) register(metrics prometheus.Registerer) {
	promauto.With(metrics).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate of the webhook listener expires.",
	}, func() float64 { return float64(c.current.Load().Leaf.NotAfter.Unix()) })
}
