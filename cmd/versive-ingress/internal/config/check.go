package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

var publishModes = []publish.Mode{publish.ModeAuto, publish.ModeBatch, publish.ModeSingle}

var (
	webhookPath  = regexp.MustCompile(`^/[^\s\pC?#%]*$`)
	subjectToken = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	streamName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// Check refuses values out of range and settings that contradict each other. It
// reads the file of secrets, and no other.
func (s *Settings) Check() error {
	if _, err := s.SigningSecrets(); err != nil {
		return err
	}
	return s.CheckValues()
}

// CheckValues is Check without the signing secrets. It reads no files.
func (s *Settings) CheckValues() error {
	maxPublish := SenderTimeout - networkShare - ingest.BodyTimeout
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
	case int64(s.MaxInflight/4*3) < s.BodyLimit():
		return wrong("INGRESS_MAX_INFLIGHT", s.MaxInflight, fmt.Sprintf("at least 4/3 of INGRESS_MAX_BODY (%v), or no such body is ever accepted", Size(s.BodyLimit())))
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return errors.New("INGRESS_TLS_CERT and INGRESS_TLS_KEY: set both, or neither")
	case s.MaxStore < 0:
		return wrong("INGRESS_MAX_STORE", s.MaxStore, "a positive size")
	case s.Replicas < 1 || s.Replicas > 5:
		return wrong("INGRESS_REPLICAS", s.Replicas, "1 to 5")
	case s.Replicas > 1 && s.NATSURL == "" && s.NATSConfig == "":
		return wrong("INGRESS_REPLICAS", s.Replicas, "1 with the embedded broker; set INGRESS_NATS_URL to a cluster")
	case s.StreamMaxBytes < 0:
		return wrong("INGRESS_STREAM_MAX_BYTES", s.StreamMaxBytes, "a positive size, or 0 (unlimited)")
	case s.MaxAge < 0 || s.MaxAge > 0 && s.MaxAge < time.Second:
		return wrong("INGRESS_MAX_AGE", s.MaxAge, "0 (indefinitely) or at least 1s")
	case s.DedupeWindow < time.Second:
		return wrong("INGRESS_DEDUPE_WINDOW", s.DedupeWindow, "at least 1s; the sender retries for 27 h 35 m")
	case s.PublishTimeout < 100*time.Millisecond || s.PublishTimeout > maxPublish:
		return wrong("INGRESS_PUBLISH_TIMEOUT", s.PublishTimeout, fmt.Sprintf("100ms to %v: with %v for the body, the sender must have its answer within %v", maxPublish, ingest.BodyTimeout, SenderTimeout))
	case !slices.Contains(publishModes, publish.Mode(s.PublishMode)):
		return wrong("INGRESS_PUBLISH_MODE", s.PublishMode, "auto, batch or single")
	case s.DrainDelay < 0:
		return wrong("INGRESS_DRAIN_DELAY", s.DrainDelay, "0s or more")
	case s.ShutdownTimeout < 0:
		return wrong("INGRESS_SHUTDOWN_TIMEOUT", s.ShutdownTimeout, "0s or more")
	case s.LogFormat != "" && s.LogFormat != "text" && s.LogFormat != "json":
		return wrong("INGRESS_LOG_FORMAT", s.LogFormat, "text or json")
	}
	if err := s.CheckBroker(); err != nil {
		return err
	}
	return s.checkHub()
}

func wrong(name string, value any, want string) error {
	return fmt.Errorf("%s=%q: want %s", name, fmt.Sprint(value), want)
}

func conflict(name string, value any, why string) error {
	return fmt.Errorf("%s=%q %s", name, fmt.Sprint(value), why)
}

// CheckBroker refuses names that no stream can have, addresses that a NATS client
// cannot dial, and settings of the embedded broker together with an external one, or
// the other way round: events would go to a broker that the operator does not mean.
func (s *Settings) CheckBroker() error {
	const (
		elsewhere = "is for the embedded broker, but INGRESS_NATS_URL names an external one; unset one of them"
		noUsers   = "requires INGRESS_NATS_URL or INGRESS_NATS_CONFIG: an embedded broker without a configuration file has no users"
	)
	plain := s.NATSURL == "" && s.NATSConfig == ""
	if err := s.Broker().check(); err != nil {
		return err
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
	case s.NATSURL != "" && s.NATSConfig != "":
		return conflict("INGRESS_NATS_CONFIG", s.NATSConfig, elsewhere)
	case s.NATSURL != "" && s.NATSListen != "":
		return conflict("INGRESS_NATS_LISTEN", s.NATSListen, elsewhere)
	case s.NATSURL != "" && s.MaxStore != 0:
		return conflict("INGRESS_MAX_STORE", s.MaxStore, elsewhere)
	case plain && s.NATSListen != "" && !isLoopback(s.NATSListen):
		return wrong("INGRESS_NATS_LISTEN", s.NATSListen, "a loopback address such as 127.0.0.1:4222, or users in INGRESS_NATS_CONFIG: anyone on the network could read interviews and write events")
	}
	for _, f := range s.Broker().files() {
		if plain && f.file != "" {
			return conflict(f.name, f.file, noUsers)
		}
	}
	return nil
}

// CheckFiles refuses files that cannot be read. For some of them the ingress
// would otherwise wait indefinitely, as it does for a broker.
func (s *Settings) CheckFiles() error {
	own := []namedFile{{"INGRESS_TLS_CERT", s.TLSCert}, {"INGRESS_TLS_KEY", s.TLSKey}}
	for _, f := range slices.Concat(own, s.Broker().files(), s.Hub().files(), []namedFile{{"INGRESS_NATS_CONFIG", s.NATSConfig}}) {
		if f.file == "" {
			continue
		}
		if _, err := ReadFile(f.file); err != nil {
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
