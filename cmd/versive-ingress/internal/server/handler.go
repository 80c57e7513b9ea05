package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"versive-ingress/ingest"
)

// openHandler begins to accept webhooks.
func (s *Server) openHandler(context.Context) error {
	maxBody, err := s.maxBody()
	if err != nil {
		return err
	}
	secrets, err := s.settings.SigningSecrets()
	if err != nil {
		return err
	}
	cfg := ingest.Config{
		Path:        s.settings.Path,
		Secrets:     secrets,
		Tolerance:   s.settings.Tolerance,
		MaxBody:     maxBody,
		MaxInflight: int64(s.settings.MaxInflight),
		Publisher:   edgePublisher{s},
		Verified:    trustConn,
		Logger:      s.log,
		Metrics:     s.metrics,
	}
	if s.tracing != nil {
		cfg.Tracer = s.tracing.Tracer("versive-ingress/ingest")
	}
	handler, err := ingest.New(cfg)
	if err != nil {
		return err
	}
	s.handler.Store(handler)
	return nil
}

// serveWebhook answers 503 until there is a handler.
func (s *Server) serveWebhook(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		w.Header().Set("Connection", "close") // the client's next connection is to another instance
	}
	if h := s.handler.Load(); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	ingest.Unavailable(w, r)
}

// ready returns nil while events can be stored, and otherwise why they cannot.
func (s *Server) ready() error {
	switch {
	case s.stopping.Load():
		return errors.New("shutting down")
	case s.handler.Load() == nil:
		if diagnose := s.diagnose.Load(); diagnose != nil {
			if err := (*diagnose)(); err != nil {
				return fmt.Errorf("starting: %w", err)
			}
		}
		return errors.New("starting")
	case s.broker != nil:
		if err := s.broker.Ready(); err != nil {
			return err
		}
	}
	return s.publisher.Ready()
}
