package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// ingress is a running ingress. Its parts are in the order in which they are
// started; stop goes the other way.
type ingress struct {
	log      *slog.Logger
	settings config.Settings

	failed    chan error // of a server, after the start
	admin     *http.Server
	webhook   *http.Server
	url       string           // of the webhook endpoint, as seen from this machine
	broker    *embedded.Broker // nil with INGRESS_NATS_URL
	publisher *publish.Publisher
	scrub     *scrub // nil with INGRESS_NATS_URL
	reloader  *reloader

	certificate *certificate // nil without TLS
	credentials *broker.Credentials
	tracing     *tracing // nil if nothing is traced

	handler  atomic.Pointer[ingest.Handler] // nil until everything has started
	stopping atomic.Bool
}

// start starts everything, from the outside in, so that the sender and the
// probes get an answer (503) while the broker recovers its streams or is not
// there yet. It returns when webhooks are accepted.
func start(ctx context.Context, s config.Settings, log *slog.Logger) (_ *ingress, err error) {
	i := &ingress{log: log, settings: s, failed: make(chan error, 2), credentials: broker.NewCredentials(s)}
	defer func() {
		if err != nil {
			i.stop()
		}
	}()
	metrics := i.newRegistry()
	if i.tracing, err = startTracing(ctx, log); err != nil {
		return nil, err
	}

	adminListener, err := net.Listen("tcp", s.AdminListen)
	if err != nil {
		return nil, fmt.Errorf("INGRESS_ADMIN_LISTEN: %w", err)
	}
	i.admin = i.newServer(i.adminRoutes(metrics))
	i.admin.ReadTimeout = headerTimeout // its requests have no body, and net/http waits for one that is announced
	shed := newShedMetric(metrics)
	go i.serve(i.admin, adminListener, shed.WithLabelValues("admin"))

	if err := i.listen(metrics, shed.WithLabelValues("webhook")); err != nil {
		return nil, err
	}
	if err := i.credentials.Load(); err != nil {
		return nil, err
	}

	if err := i.startBroker(ctx); err != nil {
		return nil, err
	}
	i.registerStore(metrics)
	if i.publisher, err = publish.Open(ctx, i.publishConfig(metrics)); err != nil {
		return nil, err
	}
	maxBody, err := i.maxBody()
	if err != nil {
		return nil, err
	}
	secrets, err := s.SigningSecrets()
	if err != nil {
		return nil, err
	}
	handler, err := ingest.New(ingest.Config{
		Path:        s.Path,
		Secrets:     secrets,
		Tolerance:   s.Tolerance,
		MaxBody:     maxBody,
		MaxInflight: int64(s.MaxInflight),
		Publisher:   i.publisher,
		Verified:    trustConn,
		Logger:      log,
		Metrics:     metrics,
		Tracer:      i.tracing.tracer(),
	})
	if err != nil {
		return nil, err
	}
	i.handler.Store(handler)
	if i.reloader, err = newReloader(log, metrics, i.sources()); err != nil {
		return nil, err
	}
	if i.broker != nil {
		if err := i.startScrub(); err != nil {
			return nil, err
		}
	}
	log.Info("ready", "webhooks", i.url, "admin", "http://"+adminListener.Addr().String(), "stream", s.Stream, "version", version)
	return i, nil
}

// wait blocks until ctx ends or a server fails, and then stops everything.
func (i *ingress) wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		i.log.Info("shutting down")
		i.drain()
	case err = <-i.failed:
	case <-i.publisher.Closed():
		err = errors.New("the broker has closed the connection for good; see the log")
	}
	i.stop()
	i.log.Info("stopped")
	return err
}

// drain gives load balancers the time to notice that /readyz says no, and
// takes webhooks all the while. A second signal ends the process at once.
func (i *ingress) drain() {
	i.stopping.Store(true)
	time.Sleep(i.settings.DrainDelay)
}

// stop ends everything in the one order that loses nothing: accept no more,
// finish what was accepted, close the client, stop the broker.
func (i *ingress) stop() {
	if h := i.handler.Load(); h != nil {
		h.Drain()
	}
	i.stopping.Store(true)
	if i.webhook != nil {
		ctx, cancel := context.WithTimeout(context.Background(), i.settings.ShutdownTimeout)
		defer cancel()
		if err := i.webhook.Shutdown(ctx); err != nil {
			i.log.Warn("requests in progress were cut off; the sender will repeat them", "error", err)
			i.webhook.Close()
		}
	}
	if i.reloader != nil {
		i.reloader.stop()
	}
	if i.scrub != nil {
		i.scrub.stop()
	}
	if i.publisher != nil {
		i.publisher.Close()
	}
	if i.broker != nil {
		i.broker.Stop()
	}
	i.tracing.stop()
	if i.admin != nil {
		i.admin.Close()
	}
}

// sources returns the files that are read again when they change.
func (i *ingress) sources() []*source {
	s := i.settings
	var list []*source
	add := func(name string, load func() error, files ...string) {
		files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
		if len(files) > 0 {
			list = append(list, &source{name: name, files: files, load: load})
		}
	}
	add("secrets", i.reloadSecrets, s.SecretsFile)
	if i.certificate != nil {
		add("tls", i.certificate.load, s.TLSCert, s.TLSKey)
	}
	add("nats", i.credentials.Load, s.NATSCreds, s.NATSNKey, s.NATSCA, s.NATSCert, s.NATSKey)
	return list
}

func (i *ingress) reloadSecrets() error {
	secrets, err := i.settings.SigningSecrets()
	if err != nil {
		return err
	}
	if err := i.handler.Load().SetSecrets(secrets); err != nil {
		return err
	}
	fingerprints := make([]string, len(secrets))
	for k, secret := range secrets {
		fingerprints[k] = ingest.Fingerprint(secret)
	}
	i.log.Info("signing secrets, by position", "fingerprints", fingerprints)
	return nil
}

// serveWebhook passes a request on as soon as there is somebody to serve it.
func (i *ingress) serveWebhook(w http.ResponseWriter, r *http.Request) {
	if i.stopping.Load() {
		// Who keeps a connection open makes the next one to another ingress.
		w.Header().Set("Connection", "close")
	}
	if h := i.handler.Load(); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	ingest.Unavailable(w, r)
}

// ready returns nil while events can be stored, else why not.
func (i *ingress) ready() error {
	switch {
	case i.stopping.Load():
		return errors.New("shutting down")
	case i.handler.Load() == nil:
		return errors.New("starting")
	case i.broker != nil:
		if err := i.broker.Ready(); err != nil {
			return err
		}
	}
	return i.publisher.Ready()
}

func (i *ingress) startBroker(ctx context.Context) error {
	s := i.settings
	if s.NATSURL != "" {
		return nil
	}
	var err error
	i.broker, err = embedded.Start(ctx, embedded.Config{
		Dir:        s.DataDir,
		Listen:     s.NATSListen,
		ConfigFile: s.NATSConfig,
		MaxStore:   int64(s.MaxStore),
		MaxPayload: s.MaxPayload(),
		Logger:     i.log,
	})
	if err != nil {
		return err
	}
	i.log.Info("embedded broker is running", "subscribers", i.broker.URL(), "data_dir", s.DataDir)
	return i.checkIdentity()
}

// checkIdentity finds out over TCP whether a broker that has users takes the
// ingress for one. In-process that shows only as a timeout: the pipe has no
// buffer, so the refusal and the client's next word wait for each other.
func (i *ingress) checkIdentity() error {
	if i.settings.NATSConfig == "" {
		return nil
	}
	nc, err := nats.Connect(i.broker.URL(), broker.Options(i.settings)...)
	if errors.Is(err, nats.ErrAuthorization) {
		return fmt.Errorf("INGRESS_NATS_CONFIG: the broker does not take the ingress for one of its users (%w); set INGRESS_NATS_NKEY or INGRESS_NATS_CREDS", err)
	}
	if err == nil { // else TLS, say, which does not matter in-process
		nc.Close()
	}
	return nil
}

func (i *ingress) publishConfig(metrics prometheus.Registerer) publish.Config {
	s := i.settings
	config := s.Streams()
	config.URL = s.NATSURL
	config.Options = []nats.Option{i.credentials.Option}
	config.Timeout = s.PublishTimeout
	config.Mode = publish.Mode(s.PublishMode)
	config.Logger, config.Metrics = i.log, metrics
	if i.broker != nil {
		config.SyncAlways = true // package embedded sees to it
		config.Options = append(config.Options, nats.InProcessServer(i.broker))
		config.MayCreate, config.Durable = i.broker.MayCreate, i.broker.Durable
		config.MarksDir = s.DataDir
	}
	return config
}

// maxBody returns the largest body whose event the broker takes.
func (i *ingress) maxBody() (int64, error) {
	size := i.publisher.MaxMessage()
	room := config.BodyRoom(size)
	set := int64(i.settings.MaxBody)
	switch {
	case room <= 0:
		return 0, fmt.Errorf("the broker takes messages of %v at most, want at least %v; raise its max_payload, or the stream's max_msg_size", config.Size(size), config.Size(schema.MaxGrowth+config.HeaderRoom+1<<20))
	case set > room:
		return 0, fmt.Errorf("INGRESS_MAX_BODY=%v does not fit the broker, which takes messages of %v at most; raise its max_payload (or the stream's max_msg_size) to at least %v, or lower INGRESS_MAX_BODY to at most %v", config.Size(set), config.Size(size), config.Size(set+size-room), config.Size(room))
	case set > 0:
		return set, nil
	case room < config.DefaultMaxBody:
		i.log.Warn("bodies are limited by the broker's max_payload", "max_body", config.Size(room).String(), "usual", config.Size(config.DefaultMaxBody).String())
	}
	return min(room, config.DefaultMaxBody), nil
}
