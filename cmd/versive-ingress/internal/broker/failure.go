package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
)

// A Failure is why a connection to the broker was not established.
type Failure struct {
	ID      string // for programs; stable
	Found   string // what happened, and at which address
	Remedy  string // a command or setting to paste
	Settled bool   // the broker has answered; waiting does not help

	err error
}

func (f *Failure) Error() string { return f.Found + "; remedy: " + f.Remedy }

func (f *Failure) Unwrap() error { return f.err }

// Explain returns the [*Failure] for the error of a connection that presents the
// credentials.
func (c *Credentials) Explain(err error) error {
	s, address := c.settings, publish.Addresses(URL(c.settings))
	settled := func(id, remedy, found string, args ...any) error {
		return &Failure{id, fmt.Sprintf(found, args...), remedy, true, err}
	}
	open := func(id, remedy, found string, args ...any) error {
		return &Failure{id, fmt.Sprintf(found, args...), remedy, false, err}
	}
	var (
		untrusted *tls.CertificateVerificationError
		name      x509.HostnameError
		noTLS     tls.RecordHeaderError
		unknown   *net.DNSError
		network   *net.OpError
	)
	errors.As(err, &network)
	alert := network != nil && network.Op == "remote error"
	timeout := network != nil && network.Timeout()
	switch {
	case publish.IsAuthError(err):
		const user = "export INGRESS_NATS_CREDS=/path/to/user.creds  # or INGRESS_NATS_NKEY"
		switch changed := c.Load(); {
		case changed != nil:
			return settled("broker_refuses", user, "the broker at %s rejects the user: %v", address, changed)
		case s.NATSCreds == "" && s.NATSNKey == "" && !strings.Contains(s.NATSURL, "@"):
			return settled("broker_refuses", user, "the broker at %s requires a user, and the settings have none", address)
		}
		return settled("broker_refuses", user, "the broker at %s rejects the user of the settings: %v", address, err)
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return settled("broker_without_users", "unset INGRESS_NATS_NKEY  # or configure users in the broker", "the broker at %s has no users with NKeys", address)
	case errors.As(err, &name):
		return settled("broker_name", "export INGRESS_NATS_URL=tls://NAME:4222  # with a name of the certificate, or have it issued for the one in use",
			"the certificate of the broker at %s is for another name: %v", address, name)
	case errors.As(err, &untrusted):
		return settled("broker_untrusted", "export INGRESS_NATS_CA=/path/to/ca.pem  # the authority that issued it",
			"the certificate of the broker at %s is not valid here: %v", address, untrusted.Err)
	case errors.Is(err, nats.ErrSecureConnWanted), errors.As(err, &noTLS):
		return settled("broker_without_tls", "unset INGRESS_NATS_CA INGRESS_NATS_CERT INGRESS_NATS_KEY  # and no tls:// in INGRESS_NATS_URL; or configure tls in the broker",
			"the broker at %s has no TLS", address)
	case c.wanted.Load() && (errors.Is(err, nats.ErrTLS) && !timeout || alert):
		found := "requires a client certificate, and the settings have none"
		if s.NATSCert != "" {
			found = "rejects the client certificate of the settings"
		}
		return settled("broker_wants_certificate", "export INGRESS_NATS_CERT=/path/to/cert.pem INGRESS_NATS_KEY=/path/to/key.pem  # issued by an authority that the broker knows",
			"the broker at %s %s: %v", address, found, err)
	case errors.Is(err, nats.ErrTLS), alert:
		return settled("broker_tls", "openssl s_client -help  # compare the versions and ciphers of TLS with those of the broker",
			"TLS with the broker at %s fails: %v", address, err)
	case errors.As(err, &unknown):
		return open("broker_unresolved", "getent hosts '"+unknown.Name+"'  # then correct INGRESS_NATS_URL, or the name service",
			"the name of the broker at %s cannot be resolved: %v", address, unknown)
	case errors.Is(err, nats.ErrNoInfoReceived), errors.Is(err, io.EOF), network != nil && network.Op == "read":
		return open("broker_foreign", "export INGRESS_NATS_URL=nats://HOST:4222  # the port for clients",
			"something listens at %s that does not answer as a NATS server: %v", address, err)
	case s.NATSURL != "":
		return open("broker_unreachable", fmt.Sprintf("nats --server '%s' server check connection  # is INGRESS_NATS_URL right, and the server up?", address),
			"no broker at %s accepts the connection: %v", address, err)
	}
	return open("broker_unreachable", "versive-ingress serve  # the embedded broker runs in it; INGRESS_NATS_URL names an external one",
		"no broker at %s accepts the connection: %v", address, err)
}
