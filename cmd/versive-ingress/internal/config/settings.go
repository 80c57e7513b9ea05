// Package config reads the settings from the environment, checks them, and derives
// addresses and limits from them.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// Settings are read from the environment, by Read alone. The tags
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

// Load reads the settings from the environment and checks them, and the files
// that they name. The error has the variable, its value (never a secret) and what
// is allowed.
func Load() (Settings, error) {
	s, err := Read()
	if err != nil {
		return Settings{}, err
	}
	if err := s.Check(); err != nil {
		return Settings{}, err
	}
	return s, s.CheckFiles()
}

// Read reads the settings from the environment and does not check them. An empty
// variable counts as not set.
func Read() (Settings, error) {
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
	for _, f := range Fields() {
		known = append(known, f.Name)
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
	case "config.Size":
		return `a size such as "65536", "64KiB" or "8MiB"`
	case "slog.Level":
		return "debug, info, warn or error"
	default:
		return "a whole number"
	}
}
