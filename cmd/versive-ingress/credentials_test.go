package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

const reloaded = "versive_ingress_config_last_reload_successful"

// A lock is what a broker asks of its clients, or what it shows them, and the
// texts of the files that open it, by setting.
type lock struct {
	config string // of the broker
	files  map[string]string
}

// locks returns two of a kind, neither of which the other's files open.
var locks = map[string]func(t *testing.T) [2]lock{
	"NKey": func(t *testing.T) (two [2]lock) {
		for i := range two {
			public, seed := newNKey(t)
			two[i] = lock{`authorization { users: [{nkey: ` + public + `}] }`, map[string]string{"nkey": readText(t, seed)}}
		}
		return two
	},
	"credentials": func(t *testing.T) (two [2]lock) {
		authority := newAuthority(t)
		users := [2]string{authority.user(t, time.Time{}), authority.user(t, time.Time{})}
		for i := range two {
			two[i] = lock{authority.config(t, users[1-i]), map[string]string{"creds": users[i]}}
		}
		return two
	},
	"CA": func(t *testing.T) (two [2]lock) {
		for i := range two {
			cert, key, _ := writeCertificate(t)
			two[i] = lock{`tls { cert_file: "` + cert + `", key_file: "` + key + `" }`, map[string]string{"ca": readText(t, cert)}}
		}
		return two
	},
	"client certificate": func(t *testing.T) (two [2]lock) {
		server, serverKey, _ := writeCertificate(t)
		for i := range two {
			cert, key, _ := writeCertificate(t)
			two[i] = lock{
				`tls { cert_file: "` + server + `", key_file: "` + serverKey + `", ca_file: "` + cert + `", verify: true }`,
				map[string]string{"ca": readText(t, server), "cert": readText(t, cert), "key": readText(t, key)},
			}
		}
		return two
	},
}

// install puts a lock's files into dir and names them in the settings.
func (l lock) install(t *testing.T, dir string, s *config.Settings) {
	t.Helper()
	for name, setting := range map[string]*string{
		"nkey": &s.NATSNKey, "creds": &s.NATSCreds, "ca": &s.NATSCA, "cert": &s.NATSCert, "key": &s.NATSKey,
	} {
		if text, ok := l.files[name]; ok {
			*setting = filepath.Join(dir, name)
			overwrite(t, *setting, text)
		}
	}
}

// The credentials of the moment are what a reconnection presents. A change
// alone breaks no connection, and what is broken leaves the last good ones in
// use.
func TestCredentialsChange(t *testing.T) {
	t.Parallel()
	for name, newLocks := range locks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			two := newLocks(t)
			address, store := embeddedtest.FreeAddress(t), t.TempDir()
			broker := func(l lock) *embedded.Broker {
				return embeddedtest.StartBroker(t, embedded.Config{Dir: store, Listen: address, ConfigFile: writeFile(t, "nats.conf", l.config)})
			}
			s, dir := withBroker(newSettings(t), address), t.TempDir()
			two[0].install(t, dir, &s)
			first := broker(two[0])
			sys := run(t, s)
			stored := func(id string) {
				t.Helper()
				// The connection may be a moment from being back.
				embeddedtest.Await(t, id+" is stored", func() bool { return sys.post(t, id, sample).Status == http.StatusOK })
			}
			reload := func(l lock) {
				t.Helper()
				const successAt = "versive_ingress_config_last_reload_success_timestamp_seconds"
				before := sys.metric(successAt)
				l.install(t, dir, &s)
				embeddedtest.Await(t, "the new files are noticed", func() bool { return sys.metric(successAt) != before })
			}
			stored("msg_1")

			reload(two[1])
			if a := sys.post(t, "msg_2", sample); a.Status != http.StatusOK {
				t.Errorf("after the change: %v", a)
			}
			if strings.Contains(sys.log.String(), "broker connection lost") {
				t.Error("the change broke the connection")
			}
			first.Stop()
			second := broker(two[1])
			stored("msg_3")

			// Broken, all of them; the broker goes and comes.
			for _, file := range []string{s.NATSNKey, s.NATSCreds, s.NATSCA, s.NATSCert, s.NATSKey} {
				if file != "" {
					overwrite(t, file, "broken")
				}
			}
			embeddedtest.Await(t, "the complaint", func() bool { return sys.metric(reloaded) == reloaded+`{source="nats"} 0`+"\n" })
			second.Stop()
			broker(two[1])
			stored("msg_4")

			// The file is valid again, for the next broker.
			reload(two[0])
			if a := sys.post(t, "msg_5", sample); a.Status != http.StatusOK {
				t.Errorf("after the change back: %v", a)
			}
		})
	}
}

// Credentials that last for some seconds, replaced in time: the broker ends the
// connection when the old ones expire, the new ones make the next, and nothing
// that was accepted meanwhile is lost or there twice.
func TestCredentialsExpire(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	address := embeddedtest.FreeAddress(t)
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: address, ConfigFile: writeFile(t, "nats.conf", authority.config(t))})
	s := withBroker(newSettings(t), address)
	s.PublishTimeout = 3 * time.Second // what was on its way when the connection ended waits as long
	var sys *system
	embeddedtest.Await(t, "the ingress starts before they expire", func() bool { // not always on a busy machine
		s.NATSCreds = writeFile(t, "user.creds", authority.user(t, time.Now().Add(8*time.Second)))
		var err error
		sys, err = tryRun(t, s)
		return err == nil
	})
	overwrite(t, s.NATSCreds, authority.user(t, time.Time{}))
	l := startLoad(t, s, 2, 10*time.Millisecond)
	embeddedtest.Await(t, "the connection is back", func() bool {
		return strings.Contains(sys.log.String(), "broker connection is back")
	})
	l.awaitAccepted(t, 10)
	l.stop()
	l.check(t)
	requireStored(t, embeddedtest.Connect(t, broker.URL(), nats.UserCredentials(s.NATSCreds)), s.Stream, l.accepted)
}

// Credentials that the broker would certainly reject are rejected at the start, with
// the name of the setting.
func TestCredentialsRefused(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	good, other := authority.user(t, time.Time{}), authority.user(t, time.Time{})
	seedOf := func(creds string) string { return creds[strings.Index(creds, "-----BEGIN USER NKEY"):] }
	account, err := authority.account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		creds, nkey string
		want        string
	}{
		"no JWT":            {creds: "broken", want: "INGRESS_NATS_CREDS"},
		"no seed":           {creds: strings.TrimSuffix(good, seedOf(good)), want: "seed"},
		"another's seed":    {creds: strings.TrimSuffix(good, seedOf(good)) + seedOf(other), want: "not that of the JWT's user"},
		"expired":           {creds: authority.user(t, time.Now().Add(-time.Minute)), want: "has expired"},
		"no NKey":           {nkey: "broken", want: "INGRESS_NATS_NKEY"},
		"an account's NKey": {nkey: string(account), want: "INGRESS_NATS_NKEY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := withBroker(newSettings(t), embeddedtest.FreeAddress(t))
			if c.creds != "" {
				s.NATSCreds = writeFile(t, "user.creds", c.creds)
			}
			if c.nkey != "" {
				s.NATSNKey = writeFile(t, "user.nk", c.nkey)
			}
			_, err := tryRun(t, s)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), string(account)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// An authority is an operator with an account that has JetStream.
type authority struct {
	operator, account     nkeys.KeyPair
	operatorID, accountID string
	systemID              string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	create := func(kind nkeys.PrefixByte) (nkeys.KeyPair, string) {
		pair, err := nkeys.CreatePair(kind)
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return pair, public
	}
	var a authority
	a.operator, a.operatorID = create(nkeys.PrefixByteOperator)
	a.account, a.accountID = create(nkeys.PrefixByteAccount)
	_, a.systemID = create(nkeys.PrefixByteAccount)
	return a
}

func encode(t *testing.T, claims interface {
	Encode(nkeys.KeyPair) (string, error)
}, signer nkeys.KeyPair,
) string {
	t.Helper()
	token, err := claims.Encode(signer)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// user returns the credentials of a new user; a zero time is no expiry.
func (a authority) user(t *testing.T, expires time.Time) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewUserClaims(public)
	if !expires.IsZero() {
		claims.Expires = expires.Unix()
	}
	credentials, err := jwt.FormatUserConfig(encode(t, claims, a.account), seed)
	if err != nil {
		t.Fatal(err)
	}
	return string(credentials)
}

// config returns a broker's configuration in which some users are revoked.
func (a authority) config(t *testing.T, revoked ...string) string {
	t.Helper()
	claims := jwt.NewAccountClaims(a.accountID)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	for _, credentials := range revoked {
		token, err := jwt.ParseDecoratedJWT([]byte(credentials))
		if err != nil {
			t.Fatal(err)
		}
		user, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		claims.Revoke(user.Subject)
	}
	return `
operator: ` + encode(t, jwt.NewOperatorClaims(a.operatorID), a.operator) + `
resolver: MEMORY
resolver_preload: {
  ` + a.accountID + `: ` + encode(t, claims, a.operator) + `
  ` + a.systemID + `: ` + encode(t, jwt.NewAccountClaims(a.systemID), a.operator) + `
}
system_account: ` + a.systemID + `
`
}
