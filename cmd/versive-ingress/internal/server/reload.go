package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/ingest"
	"versive-ingress/publish/embedded"
)

// pollInterval is the time between two looks at the files. They are read and not
// watched: a watch misses changes on a network file system, and has to follow each
// symbolic link that leads to a file.
const pollInterval = 500 * time.Millisecond

// A source is a set of files that are loaded together. It is owned by the goroutine
// of startReloader.
type source struct {
	name  string // in the log and in metrics
	load  func() error
	files []string
	read  func(file string) ([]byte, error)

	log                   *slog.Logger
	successful, successAt prometheus.Gauge

	seen   [sha256.Size]byte // checksum of the files at the last poll
	loaded [sha256.Size]byte // the same when load was last called, even if it failed
}

// sources returns the files that can change while the ingress runs.
func (s *Server) sources() []*source {
	factory := promauto.With(s.metrics)
	successful := factory.NewGaugeVec(prometheus.GaugeOpts{
		Name: "versive_ingress_config_last_reload_successful",
		Help: "Whether the files of the source could be used when they were last read; if not (0), their earlier content is in use.",
	}, []string{"source"})
	successAt := factory.NewGaugeVec(prometheus.GaugeOpts{
		Name: "versive_ingress_config_last_reload_success_timestamp_seconds",
		Help: "When the files of the source were last taken into use.",
	}, []string{"source"})
	var list []*source
	add := func(name string, load func() error, read func(string) ([]byte, error), files ...string) {
		files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
		if len(files) > 0 {
			list = append(list, &source{
				name: name, load: load, files: files, read: read,
				log: s.log, successful: successful.WithLabelValues(name), successAt: successAt.WithLabelValues(name),
			})
		}
	}
	add("secrets", s.reloadSecrets, config.ReadFile, s.settings.SecretsFile)
	add("tls", s.loadCertificate, config.ReadFile, s.settings.TLSCert, s.settings.TLSKey)
	add("nats", s.credentials.Load, config.ReadFile, s.settings.Broker().Files()...)
	add("forward", s.hubCredentials.Load, config.ReadFile, s.settings.Hub().Files()...)
	add("broker", s.compareNATSConfig, func(file string) ([]byte, error) { // also finds a change of a file that it includes
		digest, err := embedded.ConfigDigest(file)
		return []byte(digest), err
	}, s.settings.NATSConfig)
	return list
}

// compareNATSConfig returns an error if INGRESS_NATS_CONFIG has changed since the start,
// because the embedded broker does not reload it.
func (s *Server) compareNATSConfig() error {
	digest, err := embedded.ConfigDigest(s.settings.NATSConfig)
	switch {
	case err != nil:
		return fmt.Errorf("INGRESS_NATS_CONFIG has changed, and the next start would fail: %w", err)
	case digest != s.natsConfig:
		return errors.New("INGRESS_NATS_CONFIG has changed since the start; restart the ingress to use it")
	}
	return nil
}

func (s *Server) reloadSecrets() error {
	secrets, err := s.settings.SigningSecrets()
	if err != nil {
		return err
	}
	if err := s.handler.Load().SetSecrets(secrets); err != nil {
		return err
	}
	fingerprints := make([]string, len(secrets))
	for i, secret := range secrets {
		fingerprints[i] = ingest.Fingerprint(secret)
	}
	s.log.Info("signing secrets, by position", "fingerprints", fingerprints)
	return nil
}

// startReloader loads all files, because they may have changed since the start began,
// and then those that change, and all of them for each hangup.
func (s *Server) startReloader(context.Context) error {
	sources := s.sources()
	reloadAll(sources)
	s.tasks.Go(func() {
		ticker := time.NewTicker(pollInterval)
		defer ticker.Stop()
		for {
			select {
			case <-s.background.Done():
				return
			case <-ticker.C:
				for _, source := range sources {
					source.poll()
				}
			case <-s.hangup:
				s.log.Info("reading files again: SIGHUP")
				reloadAll(sources)
			}
		}
	})
	return nil
}

func reloadAll(sources []*source) {
	for _, source := range sources {
		source.reload()
	}
}

// poll reloads the source if it has changed and two looks in a row find the same: a
// certificate and its key are written one after the other.
func (s *source) poll() {
	before := s.seen
	s.seen = s.sum()
	if s.seen == before && s.seen != s.loaded {
		s.reload()
	}
}

func (s *source) reload() {
	s.loaded = s.sum()
	if err := s.load(); err != nil {
		s.successful.Set(0)
		s.log.Error("files cannot be used; their earlier content stays in use", "source", s.name, "error", err)
		return
	}
	s.successful.Set(1)
	s.successAt.SetToCurrentTime()
	s.log.Info("files are in use", "source", s.name)
}

// sum returns a checksum of what the files hold, or of why they cannot be read.
func (s *source) sum() (sum [sha256.Size]byte) {
	for _, file := range s.files {
		text, err := s.read(file)
		if err != nil {
			text = []byte(err.Error())
		}
		sum = sha256.Sum256(append(sum[:], text...))
	}
	return sum
}
