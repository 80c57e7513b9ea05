// Package server is the running ingress. A Server owns all of its parts: nothing else
// starts or stops them.
//
// They start from the outside in (Start), so that senders and probes get an answer
// (503) while the broker recovers its streams: the admin listener, tracing, the
// webhook listener, the embedded broker, the publisher, the forwarder to a hub, the
// handler, which accepts webhooks, and then the tasks in the background: the scrub, the
// reloader and the status page.
//
// A graceful shutdown (Wait, and then Stop) loses nothing by this order:
//
//  1. /readyz fails, and webhooks are still accepted for INGRESS_DRAIN_DELAY
//  2. new webhooks get 503, and those in progress finish, within INGRESS_SHUTDOWN_TIMEOUT
//  3. the forwarder and the tasks in the background end
//  4. the publisher closes its connection, and the embedded broker flushes its store
//  5. the last spans are exported, and the admin listener closes
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/cmd/versive-ingress/internal/page"
	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
)

// storeTimeout bounds how long the publisher and the embedded broker take to stop. The
// process must end before its supervisor kills it.
const storeTimeout = 10 * time.Second

// readyInterval is the time between two checks whether the ingress has become ready.
const readyInterval = 100 * time.Millisecond

// Config configures a Server. All fields but LogDropped must be set.
type Config struct {
	Settings        config.Settings // as checked by Check
	Version, Commit string          // of the program, for metrics, traces and the log
	Logger          *slog.Logger
	LogDropped      func() int64 // number of lines that Logger has dropped; nil if it drops none
}

// Server is a running ingress. Its methods, except Wait and Stop, are safe for
// concurrent use.
type Server struct {
	cfg      Config
	settings config.Settings // with the addresses of the listeners, whose ports the system may have chosen
	log      *slog.Logger
	metrics  *prometheus.Registry
	page     *page.Page

	admin, webhook *http.Server
	failed         chan error // of the two, while they run; capacity 2

	tracing                     *sdktrace.TracerProvider        // nil if nothing is traced
	certificate                 atomic.Pointer[tls.Certificate] // nil without TLS
	credentials, hubCredentials *broker.Credentials
	broker                      *embedded.Broker             // nil with INGRESS_NATS_URL
	diagnose                    atomic.Pointer[func() error] // what the broker lacks; nil until it runs, and with INGRESS_NATS_URL
	natsConfig                  string                       // digest of INGRESS_NATS_CONFIG at the start
	publisher                   *publish.Publisher
	forwarder                   *forward.Forwarder             // nil without INGRESS_FORWARD_URL
	handler                     atomic.Pointer[ingest.Handler] // nil until webhooks are accepted

	background     context.Context // of the tasks
	stopBackground context.CancelFunc
	tasks          sync.WaitGroup
	hangup         chan os.Signal // reloads all files

	stopping atomic.Bool
}

// Run runs an ingress as the main task of the process. It returns nil after ctx has
// ended, or an error when the ingress has failed. It also reloads files on SIGHUP, and sets the
// memory limit and the default logger of the process.
func Run(ctx context.Context, cfg Config) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // the first until files can be reloaded
	slog.SetDefault(cfg.Logger)
	s, err := Start(ctx, cfg)
	if ended := context.Cause(ctx); ended != nil && errors.Is(err, ended) {
		return nil
	}
	if err != nil {
		return err
	}
	signal.Notify(s.hangup, syscall.SIGHUP)
	go s.limitMemory(ctx)
	return s.Wait(ctx)
}

// Start starts an ingress and returns when it accepts webhooks. It waits for a
// broker that is away. If ctx ends before that, or a part cannot be started, Start
// stops what is running and returns an error; later, ctx has no effect.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{
		cfg:            cfg,
		settings:       cfg.Settings,
		log:            cfg.Logger,
		failed:         make(chan error, 2),
		credentials:    broker.NewCredentials(broker.Endpoint(cfg.Settings)),
		hubCredentials: broker.NewCredentials(cfg.Settings.Hub()),
		hangup:         make(chan os.Signal, 1),
	}
	if err := cmp.Or(s.credentials.Load(), s.hubCredentials.Load()); err != nil { // a publisher would wait for a broker that accepts them
		return nil, err
	}
	s.metrics = s.newRegistry()
	s.page = s.newPage()
	s.admin = newHTTPServer(s.adminRoutes(), s.log)
	s.webhook = newHTTPServer(http.HandlerFunc(s.serveWebhook), s.log)
	s.background, s.stopBackground = context.WithCancel(context.Background())
	for _, start := range []func(context.Context) error{
		s.listenAdmin,
		s.startTracing,
		s.listenWebhook,
		s.startBroker,
		s.openPublisher,
		s.startForwarding,
		s.openHandler,
		s.startScrub,
		s.startReloader,
		s.startPage,
		s.reportReady,
	} {
		if err := start(ctx); err != nil {
			s.Stop()
			return nil, err
		}
	}
	return s, nil
}

// reportReady logs that the ingress is ready, when it is.
func (s *Server) reportReady(context.Context) error {
	admin, _ := s.settings.AdminURL()
	report := func() {
		s.log.Info("ready", "webhooks", s.WebhookURL(), "admin", admin, "stream", s.settings.Stream, "version", s.cfg.Version)
	}
	err := s.ready()
	if err == nil {
		report()
		return nil
	}
	s.log.Warn("not ready yet", "error", err)
	s.tasks.Go(func() {
		for s.ready() != nil {
			select {
			case <-s.background.Done():
				return
			case <-time.After(readyInterval):
			}
		}
		report()
	})
	return nil
}

// WebhookURL returns the URL of the webhook endpoint, as seen from this machine.
func (s *Server) WebhookURL() string { return s.settings.WebhookURL() }

// BrokerURL returns the URL of the embedded broker, for subscribers. The ingress
// must have one.
func (s *Server) BrokerURL() string { return s.broker.URL() }

// Wait blocks until ctx ends or the ingress fails, and then shuts it down. It
// returns nil if ctx has ended.
func (s *Server) Wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		s.log.Info("shutting down")
		s.stopping.Store(true)
		time.Sleep(s.settings.DrainDelay) // load balancers notice that /readyz fails
	case err = <-s.failed:
	case <-s.publisher.Closed():
		err = errors.New("the broker has closed the connection permanently; see the log")
	}
	s.Stop()
	s.log.Info("stopped")
	return err
}

// Stop shuts the ingress down without INGRESS_DRAIN_DELAY, and returns when everything
// has ended, or the store does not stop within storeTimeout. Further calls do nothing.
func (s *Server) Stop() {
	if h := s.handler.Load(); h != nil {
		h.Drain()
	}
	s.stopping.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), s.settings.ShutdownTimeout)
	defer cancel()
	if err := s.webhook.Shutdown(ctx); err != nil {
		s.log.Warn("requests in progress were cut off; the sender will resend them", "error", err)
		s.webhook.Close()
	}
	s.stopBackground()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.tasks.Wait()
		if s.publisher != nil {
			s.publisher.Close()
		}
		if s.broker != nil {
			s.broker.Stop()
		}
	}()
	select {
	case <-stopped:
	case <-time.After(storeTimeout): // the broker still has the lock of its store, until the process ends
		s.log.Error("the store does not stop, as on a disk that hangs; ending without it: what was answered 2xx is on the disk", "waited", storeTimeout.String())
	}
	s.stopTracing()
	s.admin.Close()
}
