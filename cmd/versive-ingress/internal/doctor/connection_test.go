package doctor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded/embeddedtest"
)

// Brokers to which no connection is established. Doctor, commands and the log of serve
// name the same cause and remedy.
func TestConnectionFails(t *testing.T) {
	t.Parallel()
	a := newCertificateAuthority(t)
	withUser := func(o *natsserver.Options) { o.Username, o.Password = "user", "pa55word" }
	for name, test := range map[string]struct {
		change func(*testing.T, *config.Settings)
		want   string
	}{
		"away": {
			func(_ *testing.T, s *config.Settings) { s.NATSURL = "nats://user:pa55word@127.0.0.1:1" },
			"unknown broker_unreachable: nats --server 'nats://127.0.0.1:1' server check connection",
		},
		"name that does not exist": {
			func(_ *testing.T, s *config.Settings) { s.NATSURL = "nats://broker.invalid:4222" },
			"unknown broker_unresolved: getent hosts 'broker.invalid'",
		},
		"that hangs": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = "nats://" + serveTCP(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
			},
			"unknown broker_silent: export INGRESS_NATS_URL=nats://HOST:4222",
		},
		"that closes": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = "nats://" + serveTCP(t, func(*net.TCPConn) {})
			},
			"unknown broker_silent: export INGRESS_NATS_URL=nats://HOST:4222",
		},
		"that is SSH": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = "nats://" + serveTCP(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n") })
			},
			"unknown broker_silent: export INGRESS_NATS_URL=nats://HOST:4222",
		},
		"with users": {
			func(t *testing.T, s *config.Settings) { s.NATSURL = startServer(t, withUser).ClientURL() },
			"problem broker_refuses: export INGRESS_NATS_CREDS=",
		},
		"with other users": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = strings.Replace(startServer(t, withUser).ClientURL(), "user:pa55word@", "other:pa55word@", 1)
			},
			"problem broker_refuses: export INGRESS_NATS_CREDS=",
		},
		"without users": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = startServer(t, func(*natsserver.Options) {}).ClientURL()
				_, seed := newPair(t, nkeys.CreateUser)
				s.NATSNKey = writeFile(t, "user.nk", seed)
			},
			"problem broker_without_users: unset INGRESS_NATS_NKEY",
		},
		"of another operator": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL = strings.Replace(startServer(t, withUser).ClientURL(), "user:pa55word@", "", 1)
				s.NATSCreds = writeFile(t, "user.creds", newCredentials(t, time.Now().Add(time.Hour)))
			},
			"problem broker_refuses: export INGRESS_NATS_CREDS=",
		},
		"of another authority": {
			func(t *testing.T, s *config.Settings) { s.NATSURL = startTLS(t, a, false, localhost).ClientURL() },
			"problem broker_untrusted: export INGRESS_NATS_CA=",
		},
		"of another name": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL, s.NATSCA = startTLS(t, a, false, func(*x509.Certificate) {}).ClientURL(), a.file(t)
			},
			"problem broker_name: export INGRESS_NATS_URL=tls://NAME:4222",
		},
		"that wants a certificate": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL, s.NATSCA = startTLS(t, a, true, localhost).ClientURL(), a.file(t)
			},
			"problem broker_wants_certificate: export INGRESS_NATS_CERT=",
		},
		"that wants another certificate": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL, s.NATSCA = startTLS(t, a, true, localhost).ClientURL(), a.file(t)
				s.NATSCert, s.NATSKey = newCertificateAuthority(t).issue(t, localhost)
			},
			"problem broker_wants_certificate: export INGRESS_NATS_CERT=",
		},
		"that wants a certificate, and closes without an alert": {
			func(t *testing.T, s *config.Settings) { s.NATSURL, s.NATSCA = "nats://"+startCut(t, a), a.file(t) },
			"problem broker_wants_certificate: export INGRESS_NATS_CERT=",
		},
		"with an old TLS": {
			func(t *testing.T, s *config.Settings) {
				s.NATSCA = a.file(t)
				s.NATSURL = startTLS(t, a, false, localhost, func(o *natsserver.Options) {
					o.TLSConfig.MinVersion, o.TLSConfig.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
				}).ClientURL()
			},
			"problem broker_tls: tls { min_version:",
		},
		"without TLS": {
			func(t *testing.T, s *config.Settings) {
				s.NATSURL, s.NATSCA = startServer(t, func(*natsserver.Options) {}).ClientURL(), a.file(t)
			},
			"problem broker_without_tls: unset INGRESS_NATS_CA",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			s.NATSListen = ""
			test.change(t, &s)
			d := newDoctor(s)
			d.Settings.AdminListen = fakeAdmin(t, "")
			var log embeddedtest.Log
			served := s
			served.Listen, served.AdminListen = embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			go func() { // concurrently, because each waits for the broker
				defer close(ended)
				_, err := server.Start(ctx, server.Config{Settings: served, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				_, _ = io.WriteString(&log, strconv.Quote(err.Error()))
			}()
			var failure *broker.Failure
			opened := make(chan struct{})
			go func() {
				defer close(opened)
				if _, err := broker.Open(t.Context(), s, "test"); !errors.As(err, &failure) || !strings.Contains(test.want, failure.ID) {
					t.Errorf("a command gets %v", err)
				}
			}()
			requireFindings(t, d, "problem no_webhooks: restart", test.want)
			embeddedtest.Receive(t, "a command ends", opened)
			if failure == nil {
				return
			}
			quoted := strings.Trim(strconv.Quote(failure.Error()), `"`) // as slog writes it
			embeddedtest.Await(t, "serve names the cause", func() bool { return strings.Contains(log.String(), quoted) })
			cancel()
			embeddedtest.Receive(t, "serve ends", ended)
		})
	}
}

// An ingress whose broker returns as another one reports why it has no connection.
func TestReconnectionFails(t *testing.T) {
	t.Parallel()
	a := newCertificateAuthority(t)
	s := newSettings(t)
	first := startServer(t, func(o *natsserver.Options) { o.SyncAlways = true })
	port := first.Addr().(*net.TCPAddr).Port
	s.NATSURL, s.NATSListen = first.ClientURL(), ""
	run(t, s)
	readyShows := func(part string) bool { _, text := readyz(t, s); return strings.Contains(text, part) }
	first.Shutdown()
	first.WaitForShutdown()
	embeddedtest.Await(t, "the broker is away", func() bool { return readyShows("accepts the connection") })
	startTLS(t, a, false, localhost, func(o *natsserver.Options) { o.Port = port })
	embeddedtest.Await(t, "/readyz names the setting", func() bool { return readyShows("INGRESS_NATS_CA") })
}

// The TLS configuration that is ready for every broker adds no TLS to a connection.
func TestPlainConnections(t *testing.T) {
	t.Parallel()
	plain := startServer(t, func(o *natsserver.Options) {
		o.Websocket = natsserver.WebsocketOpts{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoTLS: true}
	})
	for _, url := range []string{plain.ClientURL(), plain.WebsocketURL()} {
		s := newSettings(t)
		s.NATSURL, s.NATSListen = url, ""
		c, err := broker.Open(t.Context(), s, "test")
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if _, err := c.NC.TLSConnectionState(); !errors.Is(err, nats.ErrConnectionNotTLS) {
			t.Errorf("%s: the state of TLS: %v", url, err)
		}
		c.Close()
	}
}

// The reason for which a broker rejects a user is in the user's own JWT.
func TestExpiredCredentials(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.NATSURL, s.NATSListen = "nats://127.0.0.1:1", ""
	s.NATSCreds = writeFile(t, "user.creds", newCredentials(t, time.Now().Add(-time.Minute)))
	if err := broker.NewCredentials(broker.Endpoint(s)).Explain(nats.ErrAuthorization); !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "INGRESS_NATS_CREDS: "+s.NATSCreds+": the JWT has expired") {
		t.Errorf("got %v", err)
	}
}

// newCredentials returns the credentials of a user of an unknown account.
func newCredentials(t *testing.T, expires time.Time) []byte {
	t.Helper()
	account, _ := newPair(t, nkeys.CreateAccount)
	user, seed := newPair(t, nkeys.CreateUser)
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewUserClaims(public)
	claims.Expires = expires.Unix()
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newPair(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, seed []byte) {
	t.Helper()
	pair, err := create()
	if err == nil {
		seed, err = pair.Seed()
	}
	if err != nil {
		t.Fatal(err)
	}
	return pair, seed
}

func writeFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func localhost(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }

// startTLS starts a nats-server with a certificate of an authority. With verify, it
// wants one of its clients.
func startTLS(t *testing.T, a *certificateAuthority, verify bool, names func(*x509.Certificate), changes ...func(*natsserver.Options)) *natsserver.Server {
	t.Helper()
	cert, key := a.issue(t, names)
	return startServer(t, func(o *natsserver.Options) {
		var err error
		if o.TLSConfig, err = natsserver.GenTLSConfig(&natsserver.TLSConfigOpts{CertFile: cert, KeyFile: key, CaFile: a.file(t), Verify: verify}); err != nil {
			t.Fatal(err)
		}
		o.TLS, o.TLSVerify, o.TLSTimeout = true, verify, 10
		for _, change := range changes {
			change(o)
		}
	})
}

// startCut starts a broker that requests a certificate and resets the connection
// instead of sending an alert. It returns the address.
func startCut(t *testing.T, a *certificateAuthority) string {
	t.Helper()
	file, key := a.issue(t, localhost)
	pair, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		t.Fatal(err)
	}
	return serveTCP(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, `INFO {"server_id":"cut","version":"2.15.2","max_payload":9437184,"tls_required":true}`+"\r\n")
		_ = tls.Server(conn, &tls.Config{
			Certificates: []tls.Certificate{pair},
			ClientAuth:   tls.RequestClientCert,
			VerifyConnection: func(tls.ConnectionState) error {
				_ = conn.SetLinger(0)
				conn.Close()
				return errors.New("no certificate")
			},
		}).Handshake()
	})
}
