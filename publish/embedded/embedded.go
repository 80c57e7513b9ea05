// Package embedded runs a NATS server with JetStream inside the process.
//
// Its part of the promise (see package ingest): what the broker acknowledges
// survives a power loss (sync_interval: always); the store cannot fill the disk;
// the data directory is locked; and the broker either serves everything that is
// stored there or does not start.
//
// Only commands and tests import this package, so that programs that publish or subscribe
// do not link a NATS server.
package embedded

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish/access"
)

// DefaultListen is the default address for subscribers.
const DefaultListen = "127.0.0.1:4222"

// Config configures a Broker. Dir must be set.
type Config struct {
	// Dir is the data directory. It is created if it does not exist.
	Dir string
	// Listen is the host:port for subscribers; port 0 chooses a free port. If
	// empty, ConfigFile determines it, or else it is DefaultListen. An address that
	// is not loopback requires authorization in ConfigFile, as does every listener in it.
	Listen string
	// ConfigFile is an optional nats-server configuration file for everything else,
	// such as accounts, TLS, leaf nodes or a cluster.
	ConfigFile string
	// MaxStore limits the total size of the streams, in bytes. If 0, ConfigFile
	// determines it, or else it is 80 % of the disk space that is free or taken by
	// the store.
	MaxStore int64
	// MaxPayload is the size of the largest message in bytes, including headers. A
	// larger max_payload in ConfigFile takes precedence. If neither is set, it is 1 MiB.
	MaxPayload int64

	Logger *slog.Logger // nil discards
}

// Broker is a running NATS server. After a failed write, for example on a full
// disk, it restarts the server as soon as the disk has space. It is safe for
// concurrent use.
type Broker struct {
	cfg  Config
	lock *os.File
	url  string
	port int // of the first server

	measured bool // whether the server's limit is that of measureLimit; owned by launch's goroutine

	stop   context.CancelFunc
	healer sync.WaitGroup

	mu     sync.Mutex
	server *server.Server // replaced by heal; guarded by mu
	down   error          // why no server runs, or nil; guarded by mu
	found  []asset        // what was in the store before server started; guarded by mu

	staged map[string]int // for how many checks each batch has been staged; owned by heal

	syncMu   sync.Mutex
	unsynced error // of the last Sync, since the blocks were rewritten; guarded by syncMu
}

// Start starts a broker and returns when it accepts connections and has recovered
// all streams, which can take minutes with a large store. When ctx is done before
// that, Start returns an error; later, ctx has no effect. Start also returns an
// error if a part of the store cannot be read and written, or is not recovered.
func Start(ctx context.Context, cfg Config) (_ *Broker, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("embedded broker: %w", err)
		}
	}()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	options, err := cfg.options()
	if err != nil {
		return nil, err
	}
	if (len(options.LeafNode.Remotes) > 0 || options.LeafNode.Port != 0) && options.JetStreamDomain == "" {
		cfg.Logger.Warn("leaf nodes are configured without a JetStream domain: an acknowledgement of a stream on the other side looks like one of this broker",
			"remedy", "set jetstream { domain: … } in the configuration file, to a different name on each side")
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

// launch starts a server and returns when it accepts connections, or an error after
// the server has shut down. No other server may be running.
func (b *Broker) launch(ctx context.Context, options *server.Options) error {
	store := b.cfg.storeDir()
	if err := b.prepare(store, options); err != nil {
		return err
	}
	if err := b.cfg.recordName(options); err != nil {
		return fmt.Errorf("recording the name of the server: %w", err)
	}
	overwriteScheduled(b.cfg.Dir, b.cfg.Logger)
	before := assets(store)
	// On a full disk JetStream stops until it is restarted.
	if b.measured = options.JetStreamMaxStore <= 0; b.measured {
		limit, err := measureLimit(b.cfg.Dir)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		options.JetStreamMaxStore = limit
	}
	// A client that connects before checkRecovered could create a stream that the
	// server has not recovered. This is not possible with the routes of a cluster, or
	// users mapped from certificates, which need the listener from the start.
	options.DontListen = options.Cluster.Port == 0 && !options.TLSMap
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	fatal := make(chan error, 1)
	log := &serverLog{log: b.cfg.Logger, fatal: fatal}
	s.SetLoggerV2(log, false, false, false)

	go s.Start() // returns, or blocks after a fatal error
	if err = awaitStart(ctx, s, fatal); err == nil {
		err = checkRecovered(s, store, before, log.takeWarnings())
	}
	if err == nil && options.DontListen {
		s.AcceptLoop(make(chan struct{})) // returns when it listens or has failed
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
	b.server, b.found = s, before
	return nil
}

// awaitStart waits until s is ready to accept connections and has recovered all
// streams.
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

// deniedFile matches an error of nats-server, which wraps no other.
var deniedFile = regexp.MustCompile(`open (.+): permission denied`)

// options merges the configuration file with c and with what this package requires.
func (c Config) options() (*server.Options, error) {
	o := &server.Options{}
	if c.ConfigFile != "" {
		var err error
		if o, err = server.ProcessConfigFile(c.ConfigFile); err != nil {
			if denied := deniedFile.FindStringSubmatch(err.Error()); denied != nil { // such as the key for TLS
				err = access.Explain(&fs.PathError{Op: "open", Path: denied[1], Err: syscall.EACCES}, "")
			}
			return nil, fmt.Errorf("configuration file %s: %w", c.ConfigFile, err)
		}
		if o.StoreDir != "" && filepath.Clean(o.StoreDir) != filepath.Clean(c.Dir) {
			return nil, fmt.Errorf("configuration file %s sets store_dir %q, but the data directory is %q; remove store_dir", c.ConfigFile, o.StoreDir, c.Dir)
		}
		if c.Listen != "" && (o.Host != "" || o.Port != 0) {
			return nil, fmt.Errorf("configuration file %s sets a listener, but the listen address is also set, to %q; remove one of them", c.ConfigFile, c.Listen)
		}
	}
	if o.Host == "" && o.Port == 0 {
		if err := listen(o, cmp.Or(c.Listen, DefaultListen)); err != nil {
			return nil, err
		}
	}
	if err := checkListeners(o); err != nil {
		return nil, err
	}

	if err := c.nameServer(o); err != nil {
		return nil, err
	}
	o.NoSigs = true // the program handles signals
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

// checkListeners returns an error if a listener is reachable from other machines and
// accepts connections without authorization. The users of clients do not apply to
// routes and gateways, nor to what is for diagnosis. They apply to WebSocket, MQTT and
// leaf nodes unless those have their own.
func checkListeners(o *server.Options) error {
	users, leaf, ws, mqtt := hasUsers(o), &o.LeafNode, &o.Websocket, &o.MQTT
	for _, l := range []struct {
		name, host string
		enabled    bool
		authorized bool
		remedy     string
	}{
		{"the listener for clients", o.Host, true, users || o.NoAuthUser == "" && o.TLSMap, "listen on 127.0.0.1, or configure users in a NATS configuration file"},
		{"websocket", ws.Host, ws.Port != 0, ws.NoAuthUser == "" && (users || ws.Username != "" || ws.Token != "" || ws.TLSMap), "listen on 127.0.0.1, or configure users, and no no_auth_user"},
		{"mqtt", mqtt.Host, mqtt.Port != 0, mqtt.NoAuthUser == "" && (users || mqtt.Username != "" || mqtt.Token != "" || mqtt.TLSMap), "listen on 127.0.0.1, or configure users, and no no_auth_user"},
		{"leafnodes", leaf.Host, leaf.Port != 0, users || leaf.Username != "" || leaf.Nkey != "" || len(leaf.Users) > 0, "listen on 127.0.0.1, or configure users"},
		{"cluster", o.Cluster.Host, o.Cluster.Port != 0, o.Cluster.Username != "" || verifies(o.Cluster.TLSConfig), "listen on 127.0.0.1, or configure authorization in cluster { … }, or tls with ca_file and without insecure"},
		{"gateway", o.Gateway.Host, o.Gateway.Port != 0, o.Gateway.Username != "" || verifies(o.Gateway.TLSConfig), "listen on 127.0.0.1, or configure authorization in gateway { … }, or tls with ca_file and without insecure"},
		{"the monitoring port", cmp.Or(o.HTTPHost, o.Host), o.HTTPPort != 0 || o.HTTPSPort != 0, false, `set http: "127.0.0.1:8222"`},
		{"the profiling port", o.Host, o.ProfPort != 0, false, "remove prof_port"},
	} {
		if l.enabled && !l.authorized && !isLoopback(l.host) {
			return fmt.Errorf("%s: listening on %q without authorization would let anyone on the network read interviews or their ids, and possibly write events; %s", l.name, l.host, l.remedy)
		}
	}
	return nil
}

// verifies reports whether the servers of routes or gateways authenticate each other. The
// one that accepts a connection always verifies a certificate; with the option insecure,
// the one that connects does not. Without ca_file, a certificate of any public authority
// is enough.
func verifies(c *tls.Config) bool {
	return c != nil && c.ClientCAs != nil && !c.InsecureSkipVerify
}

// isLoopback reports whether a listener on host is reachable only from this
// machine. An empty host means all interfaces.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// hasUsers reports whether every client must be one of the users.
func hasUsers(o *server.Options) bool {
	return o.NoAuthUser == "" && (o.Username != "" || o.Authorization != "" || len(o.Users) > 0 || len(o.Nkeys) > 0 ||
		len(o.TrustedOperators) > 0 || o.AuthCallout != nil)
}

// current returns the current server. While none is running, it is the last one.
func (b *Broker) current() *server.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.server
}

// InProcessConn connects to the broker without a socket. It implements
// [nats.InProcessConnProvider], and fails while the server restarts.
func (b *Broker) InProcessConn() (net.Conn, error) { return b.current().InProcessConn() }

// URL returns the URL for subscribers. It does not change while the broker runs.
func (b *Broker) URL() string { return b.url }

// Usage returns how many bytes the streams take, and their limit. It fails while
// the server restarts.
func (b *Broker) Usage() (used, limit int64, err error) {
	info, err := b.current().Jsz(nil)
	if err == nil && info.Disabled {
		err = errors.New("JetStream is not running")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("embedded broker: %w", err)
	}
	return int64(info.Store), info.Config.MaxStore, nil
}

// Messages returns the number of messages in all streams, 0 while the server
// restarts.
func (b *Broker) Messages() int64 {
	info, err := b.current().Jsz(nil)
	if err != nil {
		return 0
	}
	return int64(info.Messages)
}

// Stop shuts down the broker, flushes its store and unlocks the data directory. Further
// calls, even concurrent ones, only wait for that.
func (b *Broker) Stop() {
	b.stop()
	b.healer.Wait()
	s := b.current()
	s.Shutdown()
	s.WaitForShutdown()
	unlockDir(b.lock)
}
