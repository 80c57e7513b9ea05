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
	ID     string // for programs; stable
	Found  string // what happened, and at which address
	Remedy string // a command or setting to paste
	Lasts  bool   // waiting does not help

	err error
}

func (f *Failure) Error() string { return f.Found + "; remedy: " + f.Remedy }

func (f *Failure) Unwrap() error { return f.err }

// Explain returns the [*Failure] for the error of a connection that presents the
// credentials, or could not be established.
func (c *Credentials) Explain(err error) error {
	f := c.explain(err)
	f.err = err
	return f
}

func (c *Credentials) explain(err error) *Failure {
	s, address := c.settings, publish.Addresses(URL(c.settings))
	cause, isNetwork := errors.AsType[*net.OpError](err)
	detail, alert, timeout := err, false, false
	if isNetwork {
		detail = cause.Err // without the port of this side, which differs each time
		alert, timeout = cause.Op == "remote error", cause.Timeout()
	}
	untrusted, isUntrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, isOtherName := errors.AsType[x509.HostnameError](err)
	_, isPlain := errors.AsType[tls.RecordHeaderError](err)
	unresolved, isUnresolved := errors.AsType[*net.DNSError](err)
	isTLS := errors.Is(err, nats.ErrTLS)
	switch {
	case publish.IsAuthError(err):
		found := "rejects the user of the settings: " + detail.Error()
		if s.NATSCreds == "" && s.NATSNKey == "" && !strings.Contains(s.NATSURL, "@") {
			found = "requires a user, and the settings have none"
		} else if err := c.Load(); err != nil { // such as a JWT that has expired since
			found = "rejects the user of the settings: " + err.Error()
		}
		return &Failure{
			"broker_refuses", fmt.Sprintf("the broker at %s %s", address, found),
			"export INGRESS_NATS_CREDS=/path/to/user.creds  # or INGRESS_NATS_NKEY", true, nil,
		}
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return &Failure{
			"broker_without_users", fmt.Sprintf("the broker at %s has no users with NKeys", address),
			"unset INGRESS_NATS_NKEY  # or configure users in the broker", true, nil,
		}
	case isOtherName:
		return &Failure{
			"broker_name", fmt.Sprintf("the certificate of the broker at %s is for another name: %v", address, untrusted.Err),
			"export INGRESS_NATS_URL=tls://NAME:4222  # a name of the certificate; or have it issued for the one in use", true, nil,
		}
	case isUntrusted:
		return &Failure{
			"broker_untrusted", fmt.Sprintf("the certificate of the broker at %s is not valid here: %v", address, untrusted.Err),
			"export INGRESS_NATS_CA=/path/to/ca.pem  # the authority that issued it", true, nil,
		}
	case errors.Is(err, nats.ErrSecureConnWanted), isPlain:
		return &Failure{
			"broker_without_tls", fmt.Sprintf("the broker at %s has no TLS, and the settings require it", address),
			"unset INGRESS_NATS_CA INGRESS_NATS_CERT INGRESS_NATS_KEY  # and tls:// in INGRESS_NATS_URL; or configure tls in the broker", true, nil,
		}
	case c.wanted.Load() && (isTLS && !timeout || alert):
		found := "requires a client certificate, and the settings have none"
		if s.NATSCert != "" {
			found = "rejects the client certificate of INGRESS_NATS_CERT"
		}
		return &Failure{
			"broker_wants_certificate", fmt.Sprintf("the broker at %s %s: %v", address, found, detail),
			"export INGRESS_NATS_CERT=/path/to/cert.pem INGRESS_NATS_KEY=/path/to/key.pem  # issued by an authority that the broker knows", true, nil,
		}
	case alert, isTLS && !isNetwork && !errors.Is(err, io.EOF):
		return &Failure{
			"broker_tls", fmt.Sprintf("the broker at %s and this process do not agree on TLS: %v", address, detail),
			`tls { min_version: "1.2" }  # in the broker's configuration: older versions are not accepted`, true, nil,
		}
	case isUnresolved:
		return &Failure{
			"broker_unresolved", fmt.Sprintf("the name of the broker at %s cannot be resolved: %v", address, unresolved),
			fmt.Sprintf("getent hosts '%s'  # if there is none, correct INGRESS_NATS_URL", unresolved.Name), false, nil,
		}
	case errors.Is(err, nats.ErrNoInfoReceived), errors.Is(err, io.EOF), isNetwork && cause.Op == "read":
		return &Failure{
			"broker_silent", fmt.Sprintf("something listens at %s and does not answer as a NATS server: %v", address, detail),
			"export INGRESS_NATS_URL=nats://HOST:4222  # the port of the broker for clients; or restart a broker that hangs", false, nil,
		}
	}
	remedy := "versive-ingress serve  # the embedded broker runs in it; INGRESS_NATS_URL names an external one"
	if s.NATSURL != "" {
		remedy = CLI(s) + " server check connection  # is INGRESS_NATS_URL right, and the server up?"
	}
	return &Failure{"broker_unreachable", fmt.Sprintf("no broker at %s accepts the connection: %v", address, detail), remedy, false, nil}
}
