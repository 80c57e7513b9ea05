package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// Settings are read from the environment, by loadSettings alone. The tags
// carry the full names: with a prefix, envconfig falls back to the bare name,
// and an ambient $PATH or $NATS_URL would win in silence.
type Settings struct {
	Listen      string        `envconfig:"INGRESS_LISTEN" default:":8080" desc:"webhook listener"`
	Path        string        `envconfig:"INGRESS_PATH" default:"/webhooks/versive" desc:"webhook path"`
	AdminListen string        `envconfig:"INGRESS_ADMIN_LISTEN" default:"127.0.0.1:9090" desc:"listener for /livez, /readyz and /metrics; keep it off the public network"`
	Secrets     []string      `envconfig:"INGRESS_SECRETS" desc:"whsec_… signing secrets, comma separated; every one is accepted"`
	SecretsFile string        `envconfig:"INGRESS_SECRETS_FILE" desc:"file with more of them, one a line; # begins a comment; read again when it changes"`
	Tolerance   time.Duration `envconfig:"INGRESS_TOLERANCE" default:"5m" desc:"accepted distance between a webhook's timestamp and the clock"`
	MaxBody     Size          `envconfig:"INGRESS_MAX_BODY" shown:"8MiB, or what the broker's max_payload leaves room for" desc:"largest accepted body"`
	MaxInflight Size          `envconfig:"INGRESS_MAX_INFLIGHT" default:"256MiB" desc:"memory in bytes for bodies that arrive or wait to be stored; beyond it the slowest uploads get 503; a quarter is kept for bodies up to 64 KiB"`
	TLSCert     string        `envconfig:"INGRESS_TLS_CERT" desc:"certificate file, PEM; with TLS_KEY serves HTTPS; read again when it changes"`
	TLSKey      string        `envconfig:"INGRESS_TLS_KEY" desc:"its private key file, PEM"`

	NATSURL   string `envconfig:"INGRESS_NATS_URL" shown:"empty: the embedded broker" desc:"URLs of a NATS server or cluster with JetStream, comma separated"`
	NATSCreds string `envconfig:"INGRESS_NATS_CREDS" desc:"credentials file (JWT and seed)"`
	NATSNKey  string `envconfig:"INGRESS_NATS_NKEY" desc:"NKey seed file"`
	NATSCA    string `envconfig:"INGRESS_NATS_CA" desc:"CA certificates to trust the broker by, PEM file"`
	NATSCert  string `envconfig:"INGRESS_NATS_CERT" desc:"client certificate file, PEM"`
	NATSKey   string `envconfig:"INGRESS_NATS_KEY" desc:"its private key file, PEM"`

	DataDir    string `envconfig:"INGRESS_DATA_DIR" default:"./data" desc:"embedded broker: where the streams live"`
	NATSListen string `envconfig:"INGRESS_NATS_LISTEN" shown:"127.0.0.1:4222" desc:"embedded broker: where subscribers connect; an address off the loopback needs authorization in NATS_CONFIG"`
	NATSConfig string `envconfig:"INGRESS_NATS_CONFIG" desc:"embedded broker: a nats-server configuration file for accounts, TLS, leaf nodes, a cluster"`
	MaxStore   Size   `envconfig:"INGRESS_MAX_STORE" shown:"what is stored plus 80 % of what is free" desc:"embedded broker: largest total size of the streams"`

	Stream       string        `envconfig:"INGRESS_STREAM" default:"VERSIVE" desc:"stream name; not one that ends in _QUARANTINE or _DEAD, which the other two streams add to it"`
	Subject      string        `envconfig:"INGRESS_SUBJECT" default:"versive" desc:"first subject token; not one that ends in -quarantine or -dead"`
	Replicas     int           `envconfig:"INGRESS_REPLICAS" default:"1" desc:"stream replicas; 3 on a cluster"`
	MaxAge       time.Duration `envconfig:"INGRESS_MAX_AGE" default:"0" shown:"0: for ever" desc:"how long events are kept"`
	DedupeWindow time.Duration `envconfig:"INGRESS_DEDUPE_WINDOW" default:"48h" desc:"JetStream's duplicate window; the sender retries for 27 h 35 m"`

	PublishTimeout  time.Duration `envconfig:"INGRESS_PUBLISH_TIMEOUT" default:"8s" desc:"how long storing an event may take"`
	PublishMode     string        `envconfig:"INGRESS_PUBLISH_MODE" default:"auto" desc:"batch: events that wait at the same time are stored in one commit; single: each by itself; auto: batch with the embedded broker and one replica. An external server with sync_interval: always and one replica wants batch"`
	DrainDelay      time.Duration `envconfig:"INGRESS_DRAIN_DELAY" default:"0s" desc:"how long webhooks are still taken at the end while /readyz already says no; behind a load balancer: longer than it needs to notice"`
	ShutdownTimeout time.Duration `envconfig:"INGRESS_SHUTDOWN_TIMEOUT" default:"20s" desc:"how long requests in progress may take at the end"`
	LogLevel        slog.Level    `envconfig:"INGRESS_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat       string        `envconfig:"INGRESS_LOG_FORMAT" shown:"text on a terminal, else json" desc:"text or json"`
}

const (
	// senderTimeout is after how long the sender gives up on an answer. A
	// second is left for the network.
	senderTimeout = 15 * time.Second
	networkShare  = time.Second

	defaultMaxBody = 8 << 20
	// maxMaxBody keeps a message below JetStream's largest record of 32 MiB.
	maxMaxBody = 31 << 20
)

var publishModes = []publish.Mode{publish.ModeAuto, publish.ModeBatch, publish.ModeSingle}

// loadSettings reads and checks the settings. The error names the variable,
// its value (never a secret) and what is allowed.
func loadSettings() (Settings, error) {
	s, err := readSettings()
	if err != nil {
		return Settings{}, err
	}
	if err := s.check(); err != nil {
		return Settings{}, err
	}
	return s, s.checkFiles()
}

// readSettings reads the settings from the environment. An empty variable
// counts as not set.
func readSettings() (Settings, error) {
	if err := checkNames(); err != nil {
		return Settings{}, err
	}
	var s Settings
	if err := envconfig.Process("", &s); err != nil {
		if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
			return Settings{}, fmt.Errorf("%s=%q is not %s", parse.KeyName, parse.Value, allowed(parse.TypeName))
		}
		return Settings{}, err
	}
	return s, nil
}

// serviceLink matches what Kubernetes injects for a service named ingress.
var serviceLink = regexp.MustCompile(`^INGRESS_(SERVICE_HOST|SERVICE_PORT.*|PORT.*)$`)

// checkNames refuses INGRESS_ variables that are no settings: a misspelt one
// would be ignored in silence. It removes empty ones from the environment.
func checkNames() error {
	var known []string
	for _, f := range fields() {
		known = append(known, f.name)
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, "INGRESS_"), serviceLink.MatchString(name):
		case !slices.Contains(known, name):
			return fmt.Errorf("%s is not a setting; see: versive-ingress serve --help", name)
		case value == "":
			os.Unsetenv(name)
		}
	}
	return nil
}

// allowed says what values a setting of the named type takes.
func allowed(typeName string) string {
	switch typeName {
	case "time.Duration":
		return `a duration such as "90s", "5m" or "48h"`
	case "main.Size":
		return `a size such as "65536", "64KiB" or "8MiB"`
	case "slog.Level":
		return "debug, info, warn or error"
	default:
		return "a whole number"
	}
}

// readSecrets returns the signing secrets: those of INGRESS_SECRETS, and then
// those that INGRESS_SECRETS_FILE holds now. All can be used.
func (s *Settings) readSecrets() ([]string, error) {
	secrets, err := s.listSecrets()
	if err != nil {
		return nil, err
	}
	for i, secret := range secrets {
		if err := ingest.CheckSecret(secret); err != nil {
			return nil, fmt.Errorf("INGRESS_SECRETS and INGRESS_SECRETS_FILE: secret %d of %d %w", i+1, len(secrets), err)
		}
	}
	if len(secrets) == 0 {
		return nil, errors.New("INGRESS_SECRETS is not set: want the endpoint's signing secret (whsec_…), here or in INGRESS_SECRETS_FILE; to try without one: versive-ingress demo")
	}
	return secrets, nil
}

// listSecrets returns the secrets as they stand, not checked.
func (s *Settings) listSecrets() ([]string, error) {
	var secrets []string
	for _, secret := range s.Secrets {
		secrets = append(secrets, strings.TrimSpace(secret))
	}
	if s.SecretsFile == "" {
		return secrets, nil
	}
	if strings.HasPrefix(s.SecretsFile, "whsec_") {
		return nil, errors.New("INGRESS_SECRETS_FILE: want the name of a file; a secret belongs in it, or in INGRESS_SECRETS")
	}
	text, err := os.ReadFile(s.SecretsFile)
	if err != nil {
		return nil, fmt.Errorf("INGRESS_SECRETS_FILE: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			secrets = append(secrets, line)
		}
	}
	return secrets, nil
}

var (
	webhookPath  = regexp.MustCompile(`^/[^\s\pC?#%]*$`)
	subjectToken = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	streamName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// check refuses values out of range and settings that contradict each other.
func (s *Settings) check() error {
	if _, err := s.readSecrets(); err != nil {
		return err
	}

	maxPublish := senderTimeout - networkShare - ingest.BodyTimeout
	switch {
	case !isAddress(s.Listen):
		return wrong("INGRESS_LISTEN", s.Listen, "host:port or :port, the port a number")
	case !isAddress(s.AdminListen):
		return wrong("INGRESS_ADMIN_LISTEN", s.AdminListen, "host:port or :port, the port a number")
	case !webhookPath.MatchString(s.Path):
		return wrong("INGRESS_PATH", s.Path, `a path that begins with "/", without spaces, query or escapes`)
	case s.Tolerance < time.Second || s.Tolerance > 24*time.Hour:
		return wrong("INGRESS_TOLERANCE", s.Tolerance, "1s to 24h")
	case s.MaxBody < 0 || s.MaxBody > maxMaxBody:
		return wrong("INGRESS_MAX_BODY", s.MaxBody, "1 byte to 31MiB, the most that one message can hold")
	case s.MaxInflight/4*3 < cmp.Or(s.MaxBody, defaultMaxBody):
		return wrong("INGRESS_MAX_INFLIGHT", s.MaxInflight, fmt.Sprintf("at least 4/3 of INGRESS_MAX_BODY (%v), or no such body is ever accepted", cmp.Or(s.MaxBody, defaultMaxBody)))
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return errors.New("INGRESS_TLS_CERT and INGRESS_TLS_KEY: set both, or neither")
	case s.MaxStore < 0:
		return wrong("INGRESS_MAX_STORE", s.MaxStore, "a positive size")
	case s.Replicas < 1 || s.Replicas > 5:
		return wrong("INGRESS_REPLICAS", s.Replicas, "1 to 5")
	case s.Replicas > 1 && s.NATSURL == "" && s.NATSConfig == "":
		return wrong("INGRESS_REPLICAS", s.Replicas, "1 with the embedded broker; set INGRESS_NATS_URL to a cluster")
	case s.MaxAge < 0 || s.MaxAge > 0 && s.MaxAge < time.Second:
		return wrong("INGRESS_MAX_AGE", s.MaxAge, "0 (for ever) or at least 1s")
	case s.DedupeWindow < time.Second:
		return wrong("INGRESS_DEDUPE_WINDOW", s.DedupeWindow, "at least 1s; the sender retries for 27 h 35 m")
	case s.PublishTimeout < 100*time.Millisecond || s.PublishTimeout > maxPublish:
		return wrong("INGRESS_PUBLISH_TIMEOUT", s.PublishTimeout, fmt.Sprintf("100ms to %v: with %v for the body, the sender must have its answer within %v", maxPublish, ingest.BodyTimeout, senderTimeout))
	case !slices.Contains(publishModes, publish.Mode(s.PublishMode)):
		return wrong("INGRESS_PUBLISH_MODE", s.PublishMode, "auto, batch or single")
	case s.DrainDelay < 0:
		return wrong("INGRESS_DRAIN_DELAY", s.DrainDelay, "0s or more")
	case s.ShutdownTimeout < 0:
		return wrong("INGRESS_SHUTDOWN_TIMEOUT", s.ShutdownTimeout, "0s or more")
	case s.LogFormat != "" && s.LogFormat != "text" && s.LogFormat != "json":
		return wrong("INGRESS_LOG_FORMAT", s.LogFormat, "text or json")
	}
	return s.checkBroker()
}

func wrong(name string, value any, want string) error {
	return fmt.Errorf("%s=%q: want %s", name, fmt.Sprint(value), want)
}

// checkBroker refuses what names no stream and no broker, and settings of one
// broker where the other is chosen: who sets them has another one in mind than
// would get the events.
func (s *Settings) checkBroker() error {
	const (
		elsewhere = "it not set: it is for the embedded broker, but INGRESS_NATS_URL names another"
		embedded  = "it together with INGRESS_NATS_URL, or INGRESS_NATS_CONFIG: without them the broker is an embedded one that asks for nothing"
	)
	plain := s.NATSURL == "" && s.NATSConfig == ""
	for i, address := range strings.Split(s.NATSURL, ",") {
		if s.NATSURL != "" && !isBrokerURL(strings.TrimSpace(address)) { // not quoted: it may hold a password
			return fmt.Errorf("INGRESS_NATS_URL: address %d is not a URL such as nats://host:4222", i+1)
		}
	}
	switch {
	case !streamName.MatchString(s.Stream):
		return wrong("INGRESS_STREAM", s.Stream, "1 to 64 letters, digits, _ and -")
	case !subjectToken.MatchString(s.Subject):
		return wrong("INGRESS_SUBJECT", s.Subject, "one subject token: 1 to 32 letters, digits, _ and -, the first a letter or digit")
	case isDerived(s.Stream, schema.Kind.Stream):
		return wrong("INGRESS_STREAM", s.Stream, "a name that does not end in _QUARANTINE or _DEAD: an ingress gives such names to its other streams")
	case isDerived(s.Subject, schema.Kind.Prefix):
		return wrong("INGRESS_SUBJECT", s.Subject, "a token that does not end in -quarantine or -dead: an ingress gives such tokens to its other streams")
	case s.NATSListen != "" && !isAddress(s.NATSListen):
		return wrong("INGRESS_NATS_LISTEN", s.NATSListen, "host:port, the port a number")
	case (s.NATSCert == "") != (s.NATSKey == ""):
		return errors.New("INGRESS_NATS_CERT and INGRESS_NATS_KEY: set both, or neither")
	case s.NATSCreds != "" && s.NATSNKey != "":
		return errors.New("INGRESS_NATS_CREDS and INGRESS_NATS_NKEY: set one of them; a connection has one identity")
	case s.NATSURL != "" && s.NATSConfig != "":
		return wrong("INGRESS_NATS_CONFIG", s.NATSConfig, elsewhere)
	case s.NATSURL != "" && s.NATSListen != "":
		return wrong("INGRESS_NATS_LISTEN", s.NATSListen, elsewhere)
	case s.NATSURL != "" && s.MaxStore != 0:
		return wrong("INGRESS_MAX_STORE", s.MaxStore, elsewhere)
	case plain && s.NATSCreds != "":
		return wrong("INGRESS_NATS_CREDS", s.NATSCreds, embedded)
	case plain && s.NATSNKey != "":
		return wrong("INGRESS_NATS_NKEY", s.NATSNKey, embedded)
	case plain && s.NATSCA != "":
		return wrong("INGRESS_NATS_CA", s.NATSCA, embedded)
	case plain && s.NATSCert != "":
		return wrong("INGRESS_NATS_CERT", s.NATSCert, embedded)
	case plain && s.NATSListen != "" && !isLoopback(s.NATSListen):
		return wrong("INGRESS_NATS_LISTEN", s.NATSListen, "a loopback address such as 127.0.0.1:4222, or users in INGRESS_NATS_CONFIG: anyone on the network could read interviews and write events")
	}
	return nil
}

// checkFiles refuses files that cannot be read. For some of them the ingress
// would wait as it waits for a broker, for ever.
func (s *Settings) checkFiles() error {
	for _, f := range [...]struct{ name, file string }{
		{"INGRESS_TLS_CERT", s.TLSCert},
		{"INGRESS_TLS_KEY", s.TLSKey},
		{"INGRESS_NATS_CREDS", s.NATSCreds},
		{"INGRESS_NATS_NKEY", s.NATSNKey},
		{"INGRESS_NATS_CA", s.NATSCA},
		{"INGRESS_NATS_CERT", s.NATSCert},
		{"INGRESS_NATS_KEY", s.NATSKey},
		{"INGRESS_NATS_CONFIG", s.NATSConfig},
	} {
		if f.file == "" {
			continue
		}
		if _, err := os.ReadFile(f.file); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// isDerived reports whether a name can be the one that an ingress derives for
// its quarantine or its dead letters.
func isDerived(name string, derive func(schema.Kind, string) string) bool {
	return strings.HasSuffix(name, derive(schema.KindQuarantine, "")) || strings.HasSuffix(name, derive(schema.KindDead, ""))
}

func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func isLoopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isBrokerURL reports whether a NATS client can dial s. It takes a bare host
// as well.
func isBrokerURL(s string) bool {
	if !strings.Contains(s, "://") {
		s = "nats://" + s
	}
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}
