package doctor_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
	"versive-ingress/ingest"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A good set-up has no findings, wherever its broker is, and a probe of it
// leaves nothing behind that a consumer, or a person, would have to look at.
func TestRunOnGoodSetups(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*testing.T) (config.Settings, []string){
		"embedded": func(t *testing.T) (config.Settings, []string) { return newSettings(t), nil },
		"external": func(t *testing.T) (config.Settings, []string) {
			broker, monitor := startMonitored(t)
			s := newSettings(t)
			s.NATSURL, s.NATSListen = broker.URL(), ""
			return s, []string{monitor}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, monitors := setup(t)
			s.Secrets = append(s.Secrets, config.NewSecret())
			run(t, s)
			post(t, s)
			d := newDoctor(s)
			d.Monitors, d.Probe = monitors, true
			embeddedtest.Await(t, "all is answered in time, as on a machine that is not too busy", func() bool {
				list := findings(t, d)
				for _, f := range list {
					if t.Log(f); !slices.Contains([]string{"unanswered", "probe_failed", "probe_left"}, f[1]) {
						t.Fatal("a finding on a good setup")
					}
				}
				return len(list) == 0
			})
			js := embeddedtest.Connect(t, broker.URL(s))
			if events, kept := stored(t, js, schema.KindEvent), stored(t, js, schema.KindQuarantine); !slices.Equal(events, []string{"msg_1"}) || len(kept) > 0 {
				t.Errorf("the probe left events %q, quarantine %q", events, kept)
			}
		})
	}
}

// Wrong settings, beside a good ingress.
func TestRunOnSettings(t *testing.T) {
	t.Parallel()
	good := newSettings(t)
	run(t, good)
	post(t, good)
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("# old\n"+good.Secrets[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := float64(time.Now().Add(-100 * time.Hour).Unix())
	now := float64(time.Now().Unix())
	const (
		started  = "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %f\n"
		reloaded = "# TYPE versive_ingress_config_last_reload_success_timestamp_seconds gauge\nversive_ingress_config_last_reload_success_timestamp_seconds{source=\"secrets\"} %f\n"
		verified = `# TYPE versive_ingress_secret_last_verified_timestamp_seconds gauge
versive_ingress_secret_last_verified_timestamp_seconds{position="1",fingerprint="01234567"} %f
versive_ingress_secret_last_verified_timestamp_seconds{position="2",fingerprint="89abcdef"} %f
`
		named = `# TYPE versive_ingress_secret_last_verified_timestamp_seconds gauge
versive_ingress_secret_last_verified_timestamp_seconds{position="1",fingerprint="01234567",organization="acme"} %f
versive_ingress_secret_last_verified_timestamp_seconds{position="2",fingerprint="89abcdef",organization="acme"} %f
versive_ingress_secret_last_verified_timestamp_seconds{position="3",fingerprint="456789ab",organization="globex"} %f
`
	)
	for name, test := range map[string]struct {
		change func(*doctor.Config)
		want   []string
	}{
		"unread":            {func(d *doctor.Config) { d.SettingsErr = errors.New("INGRESS_MAXBODY is not a setting") }, []string{"problem settings: unset INGRESS_MAXBODY"}},
		"tolerance":         {func(d *doctor.Config) { d.Settings.Tolerance = time.Millisecond }, []string{"problem settings: unset INGRESS_TOLERANCE"}},
		"no such file":      {func(d *doctor.Config) { d.Settings.NATSCA = "nowhere"; d.Settings.NATSConfig = "nowhere" }, []string{"problem settings: unset INGRESS_NATS_CA", "unknown unanswered: serve --help"}},
		"no secret":         {func(d *doctor.Config) { d.Settings.Secrets = nil }, []string{"problem secret_invalid: export INGRESS_SECRETS=whsec_"}},
		"secret not base64": {func(d *doctor.Config) { d.Settings.Secrets = []string{"whsec_pa55word!"} }, []string{"problem secret_invalid: export INGRESS_SECRETS=whsec_"}},
		"secret too short":  {func(d *doctor.Config) { d.Settings.Secrets = append(d.Settings.Secrets, "whsec_c2hvcnQ=") }, []string{"problem secret_invalid: from the endpoint's page"}},
		"secret twice":      {func(d *doctor.Config) { d.Settings.SecretsFile = file }, []string{"warning secret_duplicate: export INGRESS_SECRETS=whsec_"}},
		"no secrets file":   {func(d *doctor.Config) { d.Settings.SecretsFile = "nowhere" }, []string{"problem secret_invalid: sudoedit nowhere"}},
		"secret of another": {func(d *doctor.Config) { d.Probe, d.Settings.Secrets = true, []string{config.NewSecret()} }, []string{"problem secrets_differ: systemctl restart", "problem probe_unauthorized: systemctl restart"}},
		"one secret of another": {func(d *doctor.Config) {
			d.Probe, d.Settings.Secrets = true, append(d.Settings.Secrets, config.NewSecret())
		}, []string{"problem secrets_differ: systemctl restart", "problem probe_unauthorized: systemctl restart"}},
		"other secrets, no probe":      {func(d *doctor.Config) { d.Settings.Secrets = []string{config.NewSecret()} }, []string{"problem secrets_differ: systemctl restart"}},
		"tiny bodies":                  {func(d *doctor.Config) { d.Settings.MaxBody = 1 << 10 }, []string{"warning body_limit_small: unset INGRESS_MAX_BODY"}},
		"admin on all":                 {func(d *doctor.Config) { listenOnAll(d, "10.0.0.2", "203.0.113.1") }, []string{"warning admin_public: export INGRESS_ADMIN_LISTEN=127.0.0.1:9090"}},
		"admin on all, in a container": {func(d *doctor.Config) { listenOnAll(d, "127.0.0.1", "172.17.0.2", "fe80::1", "fd00::2") }, nil},
		"path":                         {func(d *doctor.Config) { d.Settings.Path = "/other" }, []string{"problem no_webhooks: systemctl restart"}},
		"clock far ahead":              {func(d *doctor.Config) { d.Now = func() time.Time { return time.Now().Add(time.Hour) } }, []string{"problem clock: timedatectl set-ntp true"}},
		"clock behind":                 {func(d *doctor.Config) { d.Now = func() time.Time { return time.Now().Add(-time.Minute) } }, []string{"warning clock: timedatectl set-ntp true"}},
		"body over max":                {func(d *doctor.Config) { d.Settings.MaxBody = 16 << 20 }, []string{"problem max_payload: follows INGRESS_MAX_BODY"}},
		"store over disk":              {func(d *doctor.Config) { d.Settings.MaxStore = 1 << 50 }, []string{"warning store_over_disk: unset INGRESS_MAX_STORE"}},
		"store full":                   {func(d *doctor.Config) { d.Settings.MaxStore = 1 }, []string{"problem store_full: export INGRESS_MAX_STORE=1024MiB"}},
		"store of the metrics": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, "# TYPE versive_ingress_store_max_bytes gauge\nversive_ingress_store_max_bytes 1e15\n")
		}, []string{"warning store_over_disk: df -h"}},
		"stream of another":             {func(d *doctor.Config) { d.Settings.Stream = "OTHER" }, []string{"problem stream_differs: systemctl restart", "unknown stream_missing: versive-ingress serve", "unknown stream_missing: versive-ingress serve"}},
		"subject of another":            {func(d *doctor.Config) { d.Settings.Subject = "other" }, []string{"problem stream_subjects: nats stream edit VERSIVE --subjects 'versive.>' --subjects 'other.>'", "problem stream_subjects: nats stream edit VERSIVE_QUARANTINE"}},
		"probe to another":              {func(d *doctor.Config) { d.Probe, d.ProbeURL = true, "http://"+good.AdminListen+"/" }, []string{"problem probe_intercepted: curl -i --data '{}' http://"}},
		"probe by a proxy with a limit": {func(d *doctor.Config) { d.Probe, d.ProbeURL = true, proxy(t, d.Settings, 1<<20, nil) }, []string{"problem probe_limited: client_max_body_size 9m;"}},
		"probe by a proxy that strips": {func(d *doctor.Config) {
			d.Probe, d.ProbeURL = true, proxy(t, d.Settings, 1<<30, func(r *http.Request) { r.Header.Del("Svix-Signature") })
		}, []string{"problem probe_headers: Svix-Signature must pass"}},
		"probe by a proxy that changes": {func(d *doctor.Config) {
			d.Probe, d.ProbeURL = true, proxy(t, d.Settings, 1<<30, func(r *http.Request) { r.Header.Set("Svix-Id", "msg_other") })
		}, []string{"problem probe_changed: without --url"}},
		"probe by a proxy that renames": {func(d *doctor.Config) {
			d.Probe, d.ProbeURL = true, proxy(t, d.Settings, 1<<30, func(r *http.Request) { r.URL.Path = "/hooks" })
		}, []string{"problem probe_path: proxy_pass http://127.0.0.1:"}},
		"probe with an old timestamp": {func(d *doctor.Config) {
			d.Probe, d.ProbeURL = true, proxy(t, d.Settings, 1<<30, func(r *http.Request) { r.Header.Set("Svix-Timestamp", "1700000000") })
		}, []string{"problem probe_clock: timedatectl"}},
		"probe without answer": {func(d *doctor.Config) { d.Probe, d.ProbeURL = true, "http://user:pa55word@127.0.0.1:1/" }, []string{"problem probe_failed: curl -i http://user:xxxxx@127.0.0.1:1/"}},
		"no ingress":           {func(d *doctor.Config) { d.Settings.AdminListen = "127.0.0.1:1" }, []string{"unknown no_ingress: versive-ingress serve"}},
		"another program": {func(d *doctor.Config) {
			other := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(other.Close)
			d.Settings.AdminListen = strings.TrimPrefix(other.URL, "http://")
		}, []string{"problem not_ingress: sudo ss -ltnp"}},
		"webhooks of another": {func(d *doctor.Config) { d.Settings.Listen = fakeAdmin(t, "") }, []string{"problem no_webhooks: systemctl restart"}},
		"dropped log": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, "# TYPE versive_ingress_log_lines_dropped_total counter\nversive_ingress_log_lines_dropped_total 7\n")
		}, []string{"warning log_dropped: systemctl restart"}},
		"nothing stored": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, "# TYPE versive_ingress_stream_last_failure_timestamp_seconds gauge\nversive_ingress_stream_last_failure_timestamp_seconds{stream=\"VERSIVE\"} 1000\nversive_ingress_stream_last_failure_timestamp_seconds{stream=\"VERSIVE_QUARANTINE\"} 0\n")
		}, []string{"unknown not_stored: journalctl"}},
		"data directory of another": {func(d *doctor.Config) { d.Settings.AdminListen, d.Settings.DataDir = "127.0.0.1:1", file }, []string{
			"unknown no_ingress: versive-ingress serve", "problem data_dir: ls -ld ", "unknown unanswered: df -h", "unknown unanswered: INGRESS_DATA_DIR",
		}},
		"data directory in memory": {func(d *doctor.Config) { d.Settings.DataDir, d.Settings.MaxStore = "/dev/shm", 1 }, []string{"problem data_volatile: export INGRESS_DATA_DIR=/var/lib/versive-ingress", "unknown unanswered: INGRESS_DATA_DIR"}},
		"erased content": {func(d *doctor.Config) {
			d.Settings.DataDir, d.Settings.MaxStore = t.TempDir(), 1<<20
			if err := (embedded.Erased{Stream: "VERSIVE", Sequences: []uint64{1}}).Schedule(d.Settings.DataDir); err != nil {
				t.Error(err)
			}
		}, []string{"warning erased_content: systemctl restart versive-ingress", "unknown unanswered: INGRESS_DATA_DIR"}},
		"no broker": {func(d *doctor.Config) { d.Settings.NATSListen = "127.0.0.1:1" }, []string{"unknown broker_unreachable: versive-ingress serve"}},
		"no TLS":    {func(d *doctor.Config) { d.Settings.TLSCert, d.Settings.TLSKey = file, file }, []string{"problem no_webhooks: restart", "problem certificate_unusable: openssl x509 -noout -pubkey -in " + file}},
		"an old secret": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(started+verified, old, old, now))
		}, []string{"warning secret_unused: remove secret 1 (01234567)"}},
		"an unused secret": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(started+verified, old, 0., now))
		}, []string{"warning secret_unused: remove secret 1 (01234567)"}},
		"a new secret": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(started+reloaded+verified, old, now, 0., now))
		}, nil},
		"an unused secret since when": {func(d *doctor.Config) { d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(verified, 0., now)) }, nil},
		"an organization's old secret": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(started+named, old, old, now, old))
		}, []string{"warning secret_unused: remove secret 1 (acme:01234567)"}},
		"quiet organizations": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, fmt.Sprintf(started+named, old, old, old, now))
		}, nil},
		"one secret, two organizations": {func(d *doctor.Config) {
			d.Settings.Secrets = []string{"acme:" + good.Secrets[0], "globex:" + good.Secrets[0]}
		}, []string{"problem secret_invalid: export INGRESS_SECRETS=whsec_"}},
		"secret twice, one prefix": {func(d *doctor.Config) {
			d.Settings.Secrets = append(d.Settings.Secrets, strings.TrimPrefix(good.Secrets[0], "whsec_"))
		}, []string{"warning secret_duplicate: export INGRESS_SECRETS=whsec_"}},
		"another organization": {func(d *doctor.Config) {
			d.Settings.Secrets = []string{"acme:" + good.Secrets[0]}
		}, []string{"problem secrets_differ: systemctl restart"}},
		"losses in the metrics": {func(d *doctor.Config) {
			d.Settings.NATSURL, d.Settings.NATSListen = broker.URL(d.Settings), ""
			d.Settings.AdminListen = fakeAdmin(t, `# TYPE versive_ingress_stream_lost_events_total counter
versive_ingress_stream_lost_events_total{stream="VERSIVE"} 7
versive_ingress_stream_lost_events_total{stream="VERSIVE_QUARANTINE"} 5
`)
		}, []string{"unknown sync_unknown: --monitor", "problem events_lost: versive-ingress audit"}},
		"another data directory": {func(d *doctor.Config) { d.Settings.DataDir = filepath.Join(d.Settings.DataDir, "elsewhere") }, []string{"unknown unanswered: df -h", "unknown unanswered: INGRESS_DATA_DIR"}},
		"stored since": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, refused("signature")+"# TYPE versive_ingress_stream_last_event_timestamp_seconds gauge\nversive_ingress_stream_last_event_timestamp_seconds{stream=\"VERSIVE\"} 1001\n")
		}, nil},
		"stored before, and a probe": {func(d *doctor.Config) {
			d.Settings.AdminListen = fakeAdmin(t, refused("signature")+"# TYPE versive_ingress_stream_last_event_timestamp_seconds gauge\nversive_ingress_stream_last_event_timestamp_seconds{stream=\"VERSIVE\"} 999\nversive_ingress_stream_last_event_timestamp_seconds{stream=\"VERSIVE_QUARANTINE\"} 1001\n")
		}, []string{"warning secret_wrong: from the endpoint's page"}},
		"a wrong secret":     {func(d *doctor.Config) { d.Settings.AdminListen = fakeAdmin(t, refused("signature")) }, []string{"warning secret_wrong: from the endpoint's page"}},
		"refused timestamps": {func(d *doctor.Config) { d.Settings.AdminListen = fakeAdmin(t, refused("timestamp_too_new")) }, []string{"warning timestamps_refused: timedatectl"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoctor(good)
			test.change(d)
			if d.Probe { // others would see the probe
				s := newSettings(t)
				run(t, s)
				post(t, s)
				d = newDoctor(s)
				test.change(d)
			}
			requireFindings(t, d, test.want...)
		})
	}
}

// The check of the secrets names their organizations, and a probe verifies each.
func TestRunOnOrganizations(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.Secrets = []string{"acme:" + config.NewSecret(), config.NewSecret(), "globex:" + config.NewSecret()}
	run(t, s)
	post(t, s)
	d := newDoctor(s)
	d.Probe = true
	requireFindings(t, d)
	for _, c := range doctor.Run(t.Context(), *d).Checks {
		if c.Check != "secrets" {
			continue
		}
		for i, secret := range s.Secrets {
			if want := fmt.Sprintf("secret %d (%s) verified a webhook", i+1, ingest.Fingerprint(secret)); !strings.Contains(c.Seen, want) {
				t.Errorf("want %q in %q", want, c.Seen)
			}
		}
	}
}

func refused(reason string) string {
	return fmt.Sprintf("# TYPE versive_ingress_last_unauthorized_timestamp_seconds gauge\nversive_ingress_last_unauthorized_timestamp_seconds{reason=%q} 1000\n", reason)
}

// Wrong certificates.
func TestRunOnCertificates(t *testing.T) {
	t.Parallel()
	a := newCertificateAuthority(t)
	s := newSettings(t)
	s.TLSCert, s.TLSKey = a.issue(t, func(*x509.Certificate) {})
	run(t, s)
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		by     *certificateAuthority
		want   []string
	}{
		"expired":       {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, a, []string{"problem certificate_expired: openssl x509 -noout -dates"}},
		"expires soon":  {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Minute) }, a, []string{"warning certificate_expires: replace the file"}},
		"not yet valid": {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, a, []string{"problem certificate_not_yet_valid: openssl"}},
		"nameless":      {func(c *x509.Certificate) { c.DNSNames = nil }, a, []string{"problem certificate_nameless: subjectAltName"}},
		"untrusted":     {func(*x509.Certificate) {}, newCertificateAuthority(t), []string{"warning certificate_untrusted: openssl verify"}},
		"another":       {func(*x509.Certificate) {}, a, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoctor(s)
			d.Roots = a.roots
			d.Settings.TLSCert, d.Settings.TLSKey = test.by.issue(t, test.change)
			requireFindings(t, d, append(test.want, "warning certificate_stale: restart")...)
		})
	}
	t.Run("good", func(t *testing.T) { // not in parallel: others would see the probe
		d := newDoctor(s)
		d.Roots, d.Probe = a.roots, true
		requireFindings(t, d)
	})
}

// Wrong brokers. The ingress runs, and is a good one.
func TestRunOnBrokers(t *testing.T) {
	t.Parallel()
	good := newSettings(t)
	sys := run(t, good)
	external := func(url string) *doctor.Config {
		d := newDoctor(good)
		d.Settings.NATSURL, d.Settings.NATSListen = url, ""
		return d
	}
	for name, test := range map[string]struct {
		doctor func(*testing.T) *doctor.Config
		want   []string
	}{
		"without JetStream": {
			func(t *testing.T) *doctor.Config {
				return external(startServer(t, func(o *natsserver.Options) { o.JetStream = false }).ClientURL())
			},
			[]string{"problem no_jetstream: jetstream { store_dir"},
		},
		"that syncs later": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(*natsserver.Options) {})
				byHand(t, embeddedtest.Connect(t, s.ClientURL()), good, "versive", asCreated)
				d := external(s.ClientURL())
				d.Monitors = []string{"http://" + s.MonitorAddr().String()}
				return d
			},
			[]string{"problem sync_lazy: jetstream { sync_interval: always }"},
		},
		"without streams": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(o *natsserver.Options) { o.SyncAlways = true })
				d := external(s.ClientURL())
				d.Monitors = []string{"http://" + s.MonitorAddr().String() + "/"}
				return d
			},
			[]string{"unknown stream_missing: versive-ingress serve", "unknown stream_missing: versive-ingress serve"},
		},
		"embedded in the ingress": {func(*testing.T) *doctor.Config { return external(sys.BrokerURL()) }, nil},
		"not monitored": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(o *natsserver.Options) { o.SyncAlways = true })
				byHand(t, embeddedtest.Connect(t, s.ClientURL()), good, "versive", asCreated)
				return external(s.ClientURL())
			},
			[]string{"unknown sync_unknown: versive-ingress doctor --monitor http://127.0.0.1:8222"},
		},
		"monitor is away": {func(*testing.T) *doctor.Config {
			d := external(sys.BrokerURL())
			d.Monitors = []string{"http://user:pa55word@127.0.0.1:1"}
			return d
		}, []string{"unknown unanswered: curl -s http://user:xxxxx@127.0.0.1:1/jsz"}},
		"its store is full": {
			func(t *testing.T) *doctor.Config {
				d := external(sys.BrokerURL())
				id := embeddedtest.Connect(t, sys.BrokerURL()).Conn().ConnectedServerId()
				d.Monitors = []string{"http://" + fakeAdmin(t, `{"server_id":"`+id+`","storage":95000,"config":{"max_storage":100000,"sync_always":true}}`)}
				return d
			},
			[]string{"warning broker_full: max_file_store: 200000"},
		},
		"old": {
			func(t *testing.T) *doctor.Config {
				d := external("nats://" + startOlder(t, strings.TrimPrefix(sys.BrokerURL(), "nats://")))
				d.Settings.Replicas = 1
				return d
			},
			[]string{"warning broker_version: nats-server --version"},
		},
		"slow": {
			func(t *testing.T) *doctor.Config {
				return external("nats://" + startSlow(t, strings.TrimPrefix(sys.BrokerURL(), "nats://")))
			}, nil,
		},
		"small messages": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(o *natsserver.Options) { o.MaxPayload, o.SyncAlways = 1<<20, true })
				byHand(t, embeddedtest.Connect(t, s.ClientURL()), good, "versive", asCreated)
				d := external(s.ClientURL())
				d.Monitors = []string{"http://" + s.MonitorAddr().String()}
				return d
			},
			[]string{"warning max_payload: max_payload: 8519680"},
		},
		"that denies": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(o *natsserver.Options) {
					o.Users = []*natsserver.User{
						{Username: "admin", Password: "pa55word"},
						{Username: "user", Password: "pa55word", Permissions: &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.>"}}}},
					}
				})
				url := func(user string) string { return "nats://" + user + ":pa55word@" + s.Addr().String() }
				byHand(t, embeddedtest.Connect(t, url("admin")), good, "versive", asCreated)
				return external(url("user"))
			},
			[]string{"unknown sync_unknown: --monitor", "unknown broker_denies: INGRESS_NATS_NKEY", "unknown broker_denies: deploy/nats/users.conf"},
		},
		"with the monitor of another": {
			func(t *testing.T) *doctor.Config {
				s := startServer(t, func(o *natsserver.Options) { o.SyncAlways = true })
				d := external(sys.BrokerURL())
				d.Monitors = []string{"http://" + s.MonitorAddr().String()}
				return d
			},
			[]string{"unknown monitor_of_another: INGRESS_NATS_URL"},
		},
		"fewer replicas": {
			func(*testing.T) *doctor.Config { d := external(sys.BrokerURL()); d.Settings.Replicas = 3; return d },
			[]string{"warning stream_replicas: nats stream edit VERSIVE --replicas 3", "warning stream_replicas: nats stream edit VERSIVE_QUARANTINE --replicas 3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireFindings(t, test.doctor(t), test.want...)
		})
	}
}
