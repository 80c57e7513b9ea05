// Package embedded runs a NATS server with JetStream inside the process.
//
// Its part of the promise (see package ingest): what the broker acknowledges
// is on the disk, power loss included (sync_interval: always); the store
// stays smaller than the disk; one process alone has the data directory; and
// what is stored there is served whole, or the broker does not start.
//
// Only commands import this package, so that a program which publishes or
// subscribes does not compile a NATS server.
package embedded

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// DefaultListen is where subscribers connect if nothing else is said.
const DefaultListen = "127.0.0.1:4222"

// Config says how the broker runs.
type Config struct {
	// Dir is where the streams live. It is created if it does not exist.
	Dir string
	// Listen is the host:port for subscribers; port 0 takes a free one. Empty
	// is what ConfigFile says, or else DefaultListen.
	Listen string
	// ConfigFile is a nats-server configuration file for what is not set here:
	// accounts, TLS, leaf nodes, a cluster. Empty is none.
	ConfigFile string
	// MaxStore is the largest total size of the streams in bytes. 0 is what
	// ConfigFile says, or else what is stored plus 80 % of what is free on the
	// disk.
	MaxStore int64
	// MaxPayload is the largest message in bytes, headers included. A larger
	// max_payload in ConfigFile wins.
	MaxPayload int64

	Logger *slog.Logger // nil discards
}

// Broker is a running NATS server. When its store can no longer be written,
// because the disk was full or has failed, it restarts the server as soon as
// that helps; see heal. It is safe for concurrent use.
type Broker struct {
	cfg  Config
	lock *os.File
	url  string
	port int // that the first server took

	stop   context.CancelFunc
	healer sync.WaitGroup

	mu       sync.Mutex
	server   *server.Server // replaced by heal; guarded by mu
	maxStore int64          // of that server, in bytes; guarded by mu
	down     error          // why the last restart has failed, else nil; guarded by mu
}

// Start starts the broker and returns when it takes connections, with all
// streams recovered. That can take a while with a large store; ctx ends the
// wait. It returns an error if anything in the store cannot be read and
// written, or the server does not recover it.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return b, nil
}

func start(ctx context.Context, cfg Config) (*Broker, error) {
	options, err := cfg.options()
	if err != nil {
		return nil, err
	}
	if (len(options.LeafNode.Remotes) > 0 || options.LeafNode.Port != 0) && options.JetStreamDomain == "" {
		cfg.Logger.Warn("leaf nodes are configured without a JetStream domain: what a stream on the other side acknowledges cannot be told from what this one has stored",
			"remedy", "jetstream { domain: … } in the configuration file, another name on each side")
	}
	if err := makeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, lock: lock}
	if err := b.launch(ctx, options); err != nil {
		unlockDir(lock)
		return nil, err
	}
	b.url = b.server.ClientURL()
	b.port = b.server.Addr().(*net.TCPAddr).Port
	ctx, b.stop = context.WithCancel(context.Background())
	b.healer.Go(func() { b.heal(ctx) })
	return b, nil
}

// launch starts a server and returns when it takes connections, or an error
// when none is left of it. No other may be running.
func (b *Broker) launch(ctx context.Context, options *server.Options) error {
	store := b.cfg.storeDir()
	if err := b.prepare(store, options); err != nil {
		return err
	}
	overwriteScheduled(b.cfg.Dir, b.cfg.Logger)
	stored, err := assets(store)
	if err != nil {
		return err
	}
	// Measured under the lock: nothing else writes there now.
	if options.JetStreamMaxStore <= 0 {
		if options.JetStreamMaxStore, err = mostOfDisk(b.cfg.Dir); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	// A client that is connected before the check would create what the server has
	// not recovered. The routes of a cluster wait for the listener, and so do users
	// that are mapped from certificates.
	options.DontListen = options.Cluster.Port == 0 && !options.TLSMap
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	fatal := make(chan error, 1)
	log := &bridge{log: b.cfg.Logger, fatal: fatal}
	s.SetLoggerV2(log, false, false, false)

	go s.Start() // returns, or blocks after a fatal error
	if err = awaitStart(ctx, s, fatal); err == nil {
		err = checkRecovered(s, store, stored, log.takeWarnings())
	}
	if err == nil && options.DontListen {
		s.AcceptLoop(make(chan struct{})) // returns when it listens, or cannot
		select {
		case err = <-fatal:
		default:
		}
	}
	if err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server, b.maxStore = s, options.JetStreamMaxStore
	return nil
}

// awaitStart waits until s is ready to take connections, with all streams
// recovered.
func awaitStart(ctx context.Context, s *server.Server, fatal <-chan error) error {
	for !s.ReadyForConnections(50 * time.Millisecond) {
		select {
		case err := <-fatal:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
	}
	return nil
}

// options merges the configuration file with what this package decides.
func (c Config) options() (*server.Options, error) {
	o := &server.Options{}
	if c.ConfigFile != "" {
		var err error
		if o, err = server.ProcessConfigFile(c.ConfigFile); err != nil {
			return nil, fmt.Errorf("configuration file %s: %w", c.ConfigFile, err)
		}
		if o.StoreDir != "" && filepath.Clean(o.StoreDir) != filepath.Clean(c.Dir) {
			return nil, fmt.Errorf("configuration file %s sets store_dir %q, but the data directory is %q; remove store_dir", c.ConfigFile, o.StoreDir, c.Dir)
		}
		if c.Listen != "" && (o.Host != "" || o.Port != 0) {
			return nil, fmt.Errorf("configuration file %s sets a listener, and so does the listen address %q; remove one of them", c.ConfigFile, c.Listen)
		}
	}
	if o.Host == "" && o.Port == 0 {
		if err := listen(o, cmp.Or(c.Listen, DefaultListen)); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		host string
		on   bool
	}{
		{o.Host, true},
		{o.Websocket.Host, o.Websocket.Port != 0},
		{o.LeafNode.Host, o.LeafNode.Port != 0},
		{o.MQTT.Host, o.MQTT.Port != 0},
	} {
		if l.on && !isLoopback(l.host) && !hasAuthorization(o) {
			return nil, fmt.Errorf("listening on %q without authorization would let anyone on the network read interviews and write events; listen on 127.0.0.1, or configure users in a NATS configuration file", l.host)
		}
	}

	if o.ServerName == "" {
		o.ServerName = "versive-ingress"
	}
	o.NoSigs = true // signals belong to the program
	o.JetStream = true
	o.StoreDir = c.Dir
	o.SyncAlways = true
	if c.MaxStore > 0 {
		o.JetStreamMaxStore = c.MaxStore
	}
	o.MaxPayload = max(o.MaxPayload, int32(c.MaxPayload))
	o.DisableJetStreamBanner = true
	return o, nil
}

func listen(o *server.Options, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	if o.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("listen address %q: the port must be a number", address)
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.Host = cmp.Or(host, server.DEFAULT_HOST)
	return nil
}

// isLoopback reports whether a listener on host is out of reach for others. An
// empty host is the server's default, all interfaces.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func hasAuthorization(o *server.Options) bool {
	return o.NoAuthUser == "" && (o.Username != "" || o.Authorization != "" || len(o.Users) > 0 || len(o.Nkeys) > 0 ||
		len(o.TrustedOperators) > 0 || o.AuthCallout != nil || o.TLSMap)
}

// current returns the server that runs now, or the last one while none does,
// and its limit.
func (b *Broker) current() (*server.Server, int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.server, b.maxStore
}

// InProcessConn connects to the broker without a socket; it makes a Broker a
// nats.InProcessConnProvider. It fails while the server restarts.
func (b *Broker) InProcessConn() (net.Conn, error) {
	s, _ := b.current()
	return s.InProcessConn()
}

// URL returns where subscribers connect.
func (b *Broker) URL() string { return b.url }

// Messages returns how many messages all streams hold; 0 while the server
// restarts.
func (b *Broker) Messages() int64 {
	s, _ := b.current()
	info, err := s.Jsz(nil)
	if err != nil {
		return 0
	}
	return int64(info.Messages)
}

// Stop ends the broker, flushes its store and gives the data directory free.
func (b *Broker) Stop() {
	b.stop()
	b.healer.Wait()
	s, _ := b.current()
	s.Shutdown()
	s.WaitForShutdown()
	unlockDir(b.lock)
}
