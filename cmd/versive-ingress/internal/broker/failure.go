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
	ID        string // for programs; stable
	Found     string // what happened, and at which address
	Remedy    string // a command or setting to paste
	Permanent bool   // waiting does not help

	err error
}

func (f *Failure) Error() string { return f.Found + "; remedy: " + f.Remedy }

func (f *Failure) Unwrap() error { return f.err }

// Explain returns the [*Failure] for the error of a connection that presents the
// credentials, or could not be established.
func (c *Credentials) Explain(err error) error {
	e, address := c.endpoint, publish.Addresses(c.endpoint.Address())
	server := "the " + e.Name + " at " + address
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

	f := &Failure{Permanent: true, err: err}
	switch {
	case publish.IsAuthError(err):
		found := " rejects the user of the settings: " + detail.Error()
		if e.Creds == "" && e.NKey == "" && !strings.Contains(e.URL, "@") {
			found = " requires a user, and the settings have none"
		} else if err := c.Load(); err != nil { // such as a JWT that has expired since
			found = " rejects the user of the settings: " + err.Error()
		}
		f.ID, f.Found = "refuses", server+found
		f.Remedy = "export INGRESS_NATS_CREDS=/path/to/user.creds  # or INGRESS_NATS_NKEY"
	case errors.Is(err, nats.ErrNkeysNotSupported):
		f.ID, f.Found = "without_users", server+" has no users with NKeys"
		f.Remedy = "unset INGRESS_NATS_NKEY  # or configure users in the broker"
	case isOtherName:
		f.ID, f.Found = "name", fmt.Sprintf("the certificate of %s is for another name: %v", server, untrusted.Err)
		f.Remedy = "export INGRESS_NATS_URL=tls://NAME:4222  # a name of the certificate; or have it issued for the one in use"
	case isUntrusted:
		f.ID, f.Found = "untrusted", fmt.Sprintf("the certificate of %s is not valid here: %v", server, untrusted.Err)
		f.Remedy = "export INGRESS_NATS_CA=/path/to/ca.pem  # the authority that issued it"
	case errors.Is(err, nats.ErrSecureConnWanted), isPlain:
		f.ID, f.Found = "without_tls", server+" has no TLS, and the settings require it"
		f.Remedy = "unset INGRESS_NATS_CA INGRESS_NATS_CERT INGRESS_NATS_KEY  # and tls:// in INGRESS_NATS_URL; or configure tls in the broker"
	case c.requested.Load() && (isTLS && !timeout || alert):
		found := "requires a client certificate, and the settings have none"
		if e.Cert != "" {
			found = "rejects the client certificate of " + e.Prefix + "CERT"
		}
		f.ID, f.Found = "wants_certificate", fmt.Sprintf("%s %s: %v", server, found, detail)
		f.Remedy = "export INGRESS_NATS_CERT=/path/to/cert.pem INGRESS_NATS_KEY=/path/to/key.pem  # issued by an authority that the broker knows"
	case alert, isTLS && !isNetwork && !errors.Is(err, io.EOF):
		f.ID, f.Found = "tls", fmt.Sprintf("%s and this process do not agree on TLS: %v", server, detail)
		f.Remedy = `tls { min_version: "1.2" }  # in the broker's configuration: older versions are not accepted`
	case isUnresolved:
		f.ID, f.Found, f.Permanent = "unresolved", fmt.Sprintf("the name of %s cannot be resolved: %v", server, unresolved), false
		f.Remedy = fmt.Sprintf("getent hosts '%s'  # if there is none, correct INGRESS_NATS_URL", unresolved.Name)
	case errors.Is(err, nats.ErrNoInfoReceived), errors.Is(err, io.EOF), isNetwork && cause.Op == "read":
		f.ID, f.Found, f.Permanent = "silent", fmt.Sprintf("something listens at %s and does not answer as a NATS server: %v", address, detail), false
		f.Remedy = "export INGRESS_NATS_URL=nats://HOST:4222  # the port of the broker for clients; or restart a broker that hangs"
	default:
		f.ID, f.Found, f.Permanent = "unreachable", fmt.Sprintf("no %s at %s accepts the connection: %v", e.Name, address, detail), false
		f.Remedy = "versive-ingress serve  # the embedded broker runs in it; INGRESS_NATS_URL names an external one"
		if e.URL != "" {
			f.Remedy = CLI(e) + " server check connection  # is INGRESS_NATS_URL right, and the server up?"
		}
	}
	f.ID, f.Remedy = e.Name+"_"+f.ID, strings.ReplaceAll(f.Remedy, "INGRESS_NATS_", e.Prefix)
	return f
}
