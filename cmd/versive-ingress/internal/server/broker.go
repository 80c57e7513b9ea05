package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// startBroker starts the embedded broker, unless INGRESS_NATS_URL names another.
func (s *Server) startBroker(ctx context.Context) (err error) {
	if s.settings.NATSURL != "" {
		return nil
	}
	if s.settings.NATSConfig != "" {
		if s.natsConfig, err = embedded.ConfigDigest(s.settings.NATSConfig); err != nil {
			return fmt.Errorf("INGRESS_NATS_CONFIG: %w", err)
		}
	}
	s.broker, err = embedded.Start(ctx, BrokerConfig(s.settings, s.log))
	if err != nil {
		return err
	}
	diagnose := s.broker.Diagnose
	s.diagnose.Store(&diagnose)
	s.metrics.MustRegister(storeMetrics{s.broker})
	s.log.Info("embedded broker is running", "subscribers", s.broker.URL(), "data_dir", s.settings.DataDir)
	return s.checkIdentity()
}

// BrokerConfig returns the configuration of the embedded broker.
func BrokerConfig(s config.Settings, log *slog.Logger) embedded.Config {
	return embedded.Config{
		Dir:        s.DataDir,
		Listen:     s.NATSListen,
		ConfigFile: s.NATSConfig,
		MaxStore:   int64(s.MaxStore),
		MaxPayload: s.MaxPayload(),
		Logger:     log,
	}
}

// checkIdentity checks over TCP that a broker which has users accepts the ingress
// as one of them. In-process, a refusal would show only as a timeout: the pipe has
// no buffer, so the refusal and the client's next message wait for each other.
func (s *Server) checkIdentity() error {
	if s.settings.NATSConfig == "" {
		return nil
	}
	nc, err := nats.Connect(s.broker.URL(), s.credentials.Option, nats.Timeout(broker.Timeout))
	if publish.IsAuthError(err) {
		return fmt.Errorf("INGRESS_NATS_CONFIG: %w", s.credentials.Explain(err))
	}
	if err == nil { // other errors, of TLS for example, do not matter in-process
		nc.Close()
	}
	return nil
}

func (s *Server) openPublisher(ctx context.Context) (err error) {
	cfg := s.settings.Streams()
	cfg.URL = s.settings.NATSURL
	cfg.Options = []nats.Option{s.credentials.Option}
	cfg.Explain, cfg.CLI = s.credentials.Explain, broker.CLI(broker.Endpoint(s.settings))
	cfg.Timeout = s.settings.PublishTimeout
	cfg.Mode = publish.Mode(s.settings.PublishMode)
	cfg.Logger, cfg.Metrics = s.log, s.metrics
	if s.broker != nil {
		cfg.Options = append(cfg.Options, nats.InProcessServer(s.broker))
		cfg.SyncAlways = true // package embedded configures it
		cfg.MayCreate, cfg.Durable, cfg.Sync = s.broker.MayCreate, s.broker.Durable, s.broker.Sync
		if s.settings.Replicas == 1 { // otherwise another server of the cluster may be able to store events
			cfg.Ready = s.broker.Ready
		}
		cfg.Diagnose = s.broker.Diagnose
		cfg.MarksDir = s.settings.DataDir
	}
	s.publisher, err = publish.Open(ctx, cfg)
	return err
}

// startForwarding starts to forward what is stored to the hub, if there is one, whether
// or not it can be reached.
func (s *Server) startForwarding(ctx context.Context) error {
	if s.settings.ForwardURL == "" {
		return nil
	}
	edge, err := broker.Open(context.WithoutCancel(s.background), s.settings, "forward", nats.InProcessServer(s.broker)) // it saves its positions at the end
	if err != nil {
		return err
	}
	s.forwarder, err = forward.New(ctx, forward.Config{Settings: s.settings, Edge: edge, Credentials: s.hubCredentials, Logger: s.log, Metrics: s.metrics})
	if err != nil {
		edge.Close()
		return err
	}
	s.tasks.Go(func() {
		defer edge.Close()
		s.forwarder.Run(s.background)
	})
	return nil
}

// edgePublisher explains why a store that forwards is full.
type edgePublisher struct{ *Server }

// Publish implements [ingest.Publisher].
func (p edgePublisher) Publish(ctx context.Context, m schema.Message) (schema.Receipt, error) {
	receipt, err := p.publisher.Publish(ctx, m)
	if e, ok := errors.AsType[*publish.Error](err); ok && p.forwarder != nil && e.Reason() == "full" {
		err = waitingError{e, p.forwarder.Pending()}
	}
	return receipt, err
}

type waitingError struct {
	error   *publish.Error
	pending uint64
}

// Reason returns that of the publisher.
func (e waitingError) Reason() string { return e.error.Reason() }

func (e waitingError) Unwrap() error { return e.error }

func (e waitingError) Error() string {
	return fmt.Sprintf("%v; %d messages wait for the hub, without which they are not removed", e.error, e.pending)
}

// maxBody returns the largest body in bytes whose event the broker accepts.
func (s *Server) maxBody() (int64, error) {
	size := s.publisher.MaxMessage()
	room := config.BodyRoom(size)
	set := int64(s.settings.MaxBody)
	switch {
	case room <= 0:
		return 0, fmt.Errorf("the broker accepts messages of at most %v, want at least %v; raise its max_payload, or the stream's max_msg_size", config.Size(size), config.Size(schema.MaxGrowth+config.HeaderRoom+1<<20))
	case set > room:
		return 0, fmt.Errorf("INGRESS_MAX_BODY=%v does not fit the broker, which accepts messages of at most %v; raise its max_payload (or the stream's max_msg_size) to at least %v, or lower INGRESS_MAX_BODY to at most %v", config.Size(set), config.Size(size), config.Size(set+size-room), config.Size(room))
	case set > 0:
		return set, nil
	case room < config.DefaultMaxBody:
		s.log.Warn("bodies are limited by the broker's max_payload", "max_body", config.Size(room).String(), "usual", config.Size(config.DefaultMaxBody).String())
	}
	return min(room, config.DefaultMaxBody), nil
}
