package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// Credentials authenticate the ingress to the broker and the broker to the
// ingress. Their files may change: they are read again for every connection, and
// where they cannot be used, what they held before is.
//
// A change closes no connection: the broker closes one whose credentials have
// expired, and the next one presents the new ones. Credentials may be used by
// several goroutines.
type Credentials struct {
	settings config.Settings
	current  atomic.Pointer[identity]
}

// An identity is what the files hold. What is not configured is empty.
type identity struct {
	user        nkeys.KeyPair // signs the broker's nonce
	nkey        string        // the public half, for a broker that knows users by it
	jwt         string        // for a broker that knows them by an operator's word
	roots       *x509.CertPool
	certificate tls.Certificate
}

// NewCredentials returns the credentials that s names. Nothing is read before Load
// or Option.
func NewCredentials(s config.Settings) *Credentials { return &Credentials{settings: s} }

// Load reads the files. If it returns an error, what they held before stays in use.
func (c *Credentials) Load() error {
	next, err := readIdentity(c.settings)
	if err == nil {
		c.current.Store(next)
	}
	return err
}

// read returns what the files hold, or what they held when they were good.
func (c *Credentials) read() *identity {
	_ = c.Load() // the reloader is the one to complain
	return c.current.Load()
}

func readIdentity(s config.Settings) (*identity, error) {
	i := &identity{}
	if s.NATSCreds != "" {
		if err := i.readCreds(s.NATSCreds); err != nil {
			return nil, fmt.Errorf("INGRESS_NATS_CREDS: %w", err)
		}
	}
	if s.NATSNKey != "" {
		if err := i.readNKey(s.NATSNKey); err != nil {
			return nil, fmt.Errorf("INGRESS_NATS_NKEY: %w", err)
		}
	}
	if s.NATSCA != "" {
		text, err := os.ReadFile(s.NATSCA)
		if err != nil {
			return nil, fmt.Errorf("INGRESS_NATS_CA: %w", err)
		}
		i.roots = x509.NewCertPool()
		if !i.roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("INGRESS_NATS_CA: %s has no certificate in PEM", s.NATSCA)
		}
	}
	if s.NATSCert != "" {
		var err error
		if i.certificate, err = tls.LoadX509KeyPair(s.NATSCert, s.NATSKey); err != nil {
			return nil, fmt.Errorf("INGRESS_NATS_CERT and INGRESS_NATS_KEY: %w", err)
		}
	}
	return i, nil
}

// readCreds reads a file of a user's JWT and seed. What the broker would
// refuse for certain is refused here.
func (i *identity) readCreds(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if i.jwt, err = nkeys.ParseDecoratedJWT(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	claims, err := jwt.DecodeUserClaims(i.jwt)
	if err != nil {
		return fmt.Errorf("%s: reading the JWT: %w", file, err)
	}
	if claims.Expires != 0 && claims.Expires <= time.Now().Unix() {
		return fmt.Errorf("%s: the JWT has expired, on %s", file, time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339))
	}
	if err := i.parseSeed(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if i.nkey != claims.Subject {
		return fmt.Errorf("%s: the seed is not that of the JWT's user", file)
	}
	return nil
}

func (i *identity) readNKey(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := i.parseSeed(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func (i *identity) parseSeed(text []byte) error {
	var err error
	if i.user, err = nkeys.ParseDecoratedUserNKey(text); err != nil {
		return fmt.Errorf("reading the seed: %w", err)
	}
	i.nkey, err = i.user.PublicKey()
	return err
}

// Option makes a connection present the credentials of the moment, each time
// that it is made.
func (c *Credentials) Option(o *nats.Options) error {
	if err := c.Load(); err != nil {
		return err
	}
	s := c.settings
	if s.NATSCreds != "" {
		o.UserJWT = func() (string, error) { return c.read().jwt, nil }
		o.SignatureCB = func(nonce []byte) ([]byte, error) { return c.current.Load().user.Sign(nonce) }
	}
	if s.NATSNKey != "" {
		c.presentNKey(o)
	}
	if s.NATSCA == "" && s.NATSCert == "" {
		return nil
	}
	o.Secure = true
	o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.NATSCA != "" {
		o.RootCAsCB = func() (*x509.CertPool, error) { return c.read().roots, nil }
	}
	if s.NATSCert != "" {
		o.TLSCertCB = func() (tls.Certificate, error) { return c.read().certificate, nil }
	}
	return nil
}

// presentNKey does so for an NKey. nats.go notes the public half when the
// connection is first made, and only asks for signatures from then on; it holds
// the connection's lock while it does, so that its note can be changed. The
// attempt at hand has used the old one already and has to be given up.
func (c *Credentials) presentNKey(o *nats.Options) {
	first := c.current.Load()
	var made atomic.Pointer[nats.Conn]
	o.Nkey = first.nkey
	o.ConnectedCB = made.Store
	o.SignatureCB = func(nonce []byte) ([]byte, error) {
		nc := made.Load()
		if nc == nil {
			return first.user.Sign(nonce)
		}
		now := c.read()
		if nc.Opts.Nkey != now.nkey {
			nc.Opts.Nkey = now.nkey
			return nil, errors.New("the NKey has changed; the next attempt presents the new one")
		}
		return now.user.Sign(nonce)
	}
}

// Options returns the options of a connection with the credentials that s names.
func Options(s config.Settings) []nats.Option {
	return []nats.Option{NewCredentials(s).Option}
}
