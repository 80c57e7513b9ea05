package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// Credentials authenticate the ingress to a broker and the broker to the
// ingress. Their files may change: they are read again for every connection. If
// new content cannot be used, the earlier content stays in use.
//
// A change closes no connection: the broker closes one whose credentials have
// expired, and the next one presents the new ones. Credentials may be used by
// several goroutines.
type Credentials struct {
	endpoint  config.Endpoint
	current   atomic.Pointer[identity]
	requested atomic.Bool // whether the broker requested a certificate in the last handshake
}

// An identity is the content of the files. Fields that are not configured are empty.
type identity struct {
	user        nkeys.KeyPair // signs the broker's nonce
	nkey        string        // the public half of user
	jwt         string        // of user, for a broker that has operators
	roots       *x509.CertPool
	certificate tls.Certificate
}

// NewCredentials returns the credentials that e names. Nothing is read before Load
// or Option.
func NewCredentials(e config.Endpoint) *Credentials { return &Credentials{endpoint: e} }

// Load reads the files. If it returns an error, their earlier content stays in use.
func (c *Credentials) Load() error {
	e, next := c.endpoint, &identity{}
	if e.Creds != "" {
		if err := next.readUser(e.Creds, true); err != nil {
			return fmt.Errorf("%sCREDS: %w", e.Prefix, err)
		}
	}
	if e.NKey != "" {
		if err := next.readUser(e.NKey, false); err != nil {
			return fmt.Errorf("%sNKEY: %w", e.Prefix, err)
		}
	}
	if e.CA != "" {
		text, err := config.ReadFile(e.CA)
		if err != nil {
			return fmt.Errorf("%sCA: %w", e.Prefix, err)
		}
		next.roots = x509.NewCertPool()
		if !next.roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("%sCA: %s has no certificate in PEM", e.Prefix, e.CA)
		}
	}
	if e.Cert != "" {
		var err error
		if next.certificate, err = config.ReadKeyPair(e.Cert, e.Key); err != nil {
			return fmt.Errorf("%[1]sCERT and %[1]sKEY: %[2]w", e.Prefix, err)
		}
	}
	c.current.Store(next)
	return nil
}

// readUser reads the seed of a user and, withJWT, the user's JWT. It returns an error
// for what the broker would certainly reject.
func (i *identity) readUser(file string, withJWT bool) error {
	text, err := config.ReadFile(file)
	if err != nil {
		return err
	}
	if i.user, err = nkeys.ParseDecoratedUserNKey(text); err == nil {
		i.nkey, err = i.user.PublicKey()
	}
	if err != nil {
		return fmt.Errorf("%s: reading the seed: %w", file, err)
	}
	if !withJWT {
		return nil
	}
	var claims *jwt.UserClaims
	if i.jwt, err = nkeys.ParseDecoratedJWT(text); err == nil {
		claims, err = jwt.DecodeUserClaims(i.jwt)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: reading the JWT: %w", file, err)
	case claims.Expires != 0 && claims.Expires <= time.Now().Unix():
		return fmt.Errorf("%s: the JWT has expired, on %s", file, time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339))
	case i.nkey != claims.Subject:
		return fmt.Errorf("%s: the seed is not that of the JWT's user", file)
	}
	return nil
}

// Option makes a connection present the current credentials whenever it is
// established.
func (c *Credentials) Option(o *nats.Options) error {
	if err := c.Load(); err != nil {
		return err
	}
	read := func() *identity {
		_ = c.Load() // reported where the files are watched
		return c.current.Load()
	}
	e := c.endpoint
	if e.Creds != "" {
		o.UserJWT = func() (string, error) { return read().jwt, nil }
		o.SignatureCB = func(nonce []byte) ([]byte, error) { return c.current.Load().user.Sign(nonce) }
	}
	if e.NKey != "" {
		presentNKey(o, c.current.Load(), read)
	}
	if e.CA != "" || e.Cert != "" {
		o.Secure = true
	}
	if o.Secure || !strings.Contains(e.URL, "ws://") { // to which a TLSConfig would add TLS
		c.useTLS(o, read)
	}
	return nil
}

// useTLS configures TLS, for brokers that have it, and records in c.requested whether the
// broker requests a certificate. With TLS 1.3 the broker verifies it after the client
// has finished the handshake, and the alert may be lost with the connection.
func (c *Credentials) useTLS(o *nats.Options, read func() *identity) {
	o.ReconnectJitterTLS = o.ReconnectJitter       // nats.go takes a TLSConfig for TLS
	o.RootCAsCB = func() (*x509.CertPool, error) { // called before each handshake
		c.requested.Store(false)
		return read().roots, nil
	}
	o.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c.requested.Store(true)
			certificate := read().certificate
			if request.SupportsCertificate(&certificate) != nil {
				return &tls.Certificate{}, nil // the broker may not require one
			}
			return &certificate, nil
		},
	}
}

// presentNKey makes a connection present the current NKey. nats.go keeps the public
// half with which the connection was first established, and later only requests
// signatures. It holds the connection's lock meanwhile, so the callback may replace
// that public half. The attempt in progress has already sent the old one, and fails.
func presentNKey(o *nats.Options, first *identity, read func() *identity) {
	var made atomic.Pointer[nats.Conn]
	o.Nkey = first.nkey
	o.ConnectedCB = made.Store
	o.SignatureCB = func(nonce []byte) ([]byte, error) {
		nc := made.Load()
		if nc == nil {
			return first.user.Sign(nonce)
		}
		now := read()
		if nc.Opts.Nkey != now.nkey {
			nc.Opts.Nkey = now.nkey
			return nil, errors.New("the NKey has changed; the next attempt presents the new one")
		}
		return now.user.Sign(nonce)
	}
}
