package server

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// configureTLS makes the webhook listener serve HTTPS. Each handshake uses the
// certificate that was loaded last.
func (s *Server) configureTLS() error {
	if err := s.loadCertificate(); err != nil {
		return err
	}
	s.webhook.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.certificate.Load(), nil
		},
	}
	promauto.With(s.metrics).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "versive_ingress_tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate of the webhook listener expires.",
	}, func() float64 { return float64(s.certificate.Load().Leaf.NotAfter.Unix()) })
	return nil
}

// loadCertificate reads the files. An expired certificate is better than none at
// the start, but does not replace another one.
func (s *Server) loadCertificate() error {
	next, err := config.ReadKeyPair(s.settings.TLSCert, s.settings.TLSKey)
	if err != nil {
		return fmt.Errorf("INGRESS_TLS_CERT and INGRESS_TLS_KEY: %w", err)
	}
	if until := next.Leaf.NotAfter; s.certificate.Load() != nil && time.Now().After(until) {
		return fmt.Errorf("INGRESS_TLS_CERT: %s has expired, on %s", s.settings.TLSCert, until.UTC().Format(time.RFC3339))
	}
	s.certificate.Store(&next)
	return nil
}
