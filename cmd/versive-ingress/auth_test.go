package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"versive-ingress/publish/embedded/embeddedtest"
)

// An nkey is a user's identity: the public half for the broker's
// configuration, the file with the seed for the client.
func newNKey(t *testing.T) (public, file string) {
	t.Helper()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = user.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return public, writeFile(t, "user.nk", string(seed))
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPublicBrokerNeedsAuthorization(t *testing.T) {
	t.Parallel()
	public, seed := newNKey(t)
	for name, config := range map[string]string{
		"no users":          `max_connections: 100`,
		"user for everyone": `authorization { users: [{nkey: ` + public + `}, {user: guest, password: guest}] }, no_auth_user: guest`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			s.NATSListen = strings.Replace(s.NATSListen, "127.0.0.1", "0.0.0.0", 1)
			s.NATSNKey = seed
			s.NATSConfig = writeFile(t, "nats.conf", config)
			if _, err := tryRun(t, s); err == nil || !strings.Contains(err.Error(), "without authorization") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// With users in the broker's configuration the ingress is one of them, by its
// NKey; connections without a key are rejected.
func TestBrokerWithUsers(t *testing.T) {
	t.Parallel()
	public, seed := newNKey(t)
	for name, config := range map[string]string{
		"authorization": `authorization { users: [{nkey: ` + public + `}, {user: reader, password: secret}] }`,
		"account":       `accounts { VERSIVE { jetstream: enabled, users: [{nkey: ` + public + `}, {user: reader, password: secret}] } }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			s.NATSListen = strings.Replace(s.NATSListen, "127.0.0.1", "0.0.0.0", 1)
			s.NATSConfig = writeFile(t, "nats.conf", config)

			if _, err := tryRun(t, s); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("without the NKey: %v", err)
			}
			s.DataDir = t.TempDir()
			s.NATSNKey = seed
			sys := run(t, s)
			if a := sys.post(t, "msg_1", sample); a.Outcome != "stored" {
				t.Errorf("got %v", a)
			}

			if nc, err := nats.Connect(sys.BrokerURL(), nats.Timeout(embeddedtest.Timeout)); !errors.Is(err, nats.ErrAuthorization) {
				nc.Close()
				t.Errorf("a subscriber without credentials: %v", err)
			}
			js := embeddedtest.Connect(t, sys.BrokerURL(), nats.UserInfo("reader", "secret"))
			requireStored(t, js, s.Stream, map[string]uint64{"msg_1": 1})
		})
	}
}

// The same with an operator's JWTs, by a credentials file.
func TestBrokerWithOperator(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	s := newSettings(t)
	s.NATSListen = strings.Replace(s.NATSListen, "127.0.0.1", "0.0.0.0", 1)
	s.NATSCreds = writeFile(t, "user.creds", authority.user(t, time.Time{}))
	s.NATSConfig = writeFile(t, "nats.conf", authority.config(t))
	sys := run(t, s)
	if a := sys.post(t, "msg_1", sample); a.Outcome != "stored" {
		t.Errorf("got %v", a)
	}
	js := embeddedtest.Connect(t, sys.BrokerURL(), nats.UserCredentials(s.NATSCreds))
	requireStored(t, js, s.Stream, map[string]uint64{"msg_1": 1})
}

// A broker with TLS is for its subscribers; the ingress is inside.
func TestBrokerWithTLS(t *testing.T) {
	t.Parallel()
	cert, key, roots := writeCertificate(t)
	s := newSettings(t)
	s.NATSConfig = writeFile(t, "nats.conf", `tls { cert_file: "`+cert+`", key_file: "`+key+`" }`)
	sys := run(t, s)
	if a := sys.post(t, "msg_1", sample); a.Outcome != "stored" {
		t.Errorf("got %v", a)
	}
	js := embeddedtest.Connect(t, sys.BrokerURL(), nats.Secure(&tls.Config{RootCAs: roots}))
	requireStored(t, js, s.Stream, map[string]uint64{"msg_1": 1})

	// The same broker from outside, by its certificate.
	outside := withBroker(newSettings(t), s.NATSListen)
	outside.Stream, outside.Subject = "OTHER", "other"
	outside.NATSCA = cert
	if a := run(t, outside).post(t, "msg_1", sample); a.Outcome != "stored" {
		t.Errorf("from outside: %v", a)
	}
}

// writeCertificate writes a certificate for 127.0.0.1 and its key, and returns
// their files and roots that trust it.
func writeCertificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	return writeCertificateUntil(t, time.Now().Add(time.Hour))
}

func writeCertificateUntil(t *testing.T, expires time.Time) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     expires,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(cert)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, text := range map[string][]byte{
		certFile: cert,
		keyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, roots
}

func overwrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
