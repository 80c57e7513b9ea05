package doctor_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestMain(m *testing.M) {
	os.Exit(embeddedtest.Run(m, sender.Client.CloseIdleConnections))
}

// newSettings returns the defaults, with a secret, a directory and addresses of their
// own.
func newSettings(t *testing.T) config.Settings {
	t.Helper()
	s := config.Defaults()
	s.Secrets = []string{config.NewSecret()}
	s.Listen, s.AdminListen, s.NATSListen = embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)
	s.DataDir = t.TempDir()
	return s
}

// run starts an ingress.
func run(t *testing.T, s config.Settings) *server.Server {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	ingress, err := server.Start(t.Context(), server.Config{Settings: s, Version: "v9.8.7", Commit: "c0ffee", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ingress.Stop)
	return ingress
}

// post posts an event and requires that it is stored.
func post(t *testing.T, s config.Settings) {
	t.Helper()
	vendor, err := sender.New(s.WebhookURL(), s.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"event_type":"interview.completed","study":{"id":"study_1"},"interview":{"id":"interview_1"}}`)
	if a, err := vendor.Post(t.Context(), "msg_1", time.Now(), body); err != nil || a.Outcome != "stored" {
		t.Fatalf("got %v, %v", a, err)
	}
}

func readyz(t *testing.T, s config.Settings) (status int, text string) {
	t.Helper()
	response, err := sender.Client.Get("http://" + s.AdminListen + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// stored returns the ids of a kind of message.
func stored(t *testing.T, js jetstream.JetStream, kind schema.Kind) (ids []string) {
	t.Helper()
	for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: kind}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	return ids
}

// newDoctor returns what the command checks.
func newDoctor(s config.Settings) *doctor.Config {
	s.Secrets = slices.Clone(s.Secrets)
	return &doctor.Config{Settings: s}
}

// listenOnAll has the admin listener on all interfaces of a machine with the addresses.
func listenOnAll(d *doctor.Config, addresses ...string) {
	d.Settings.AdminListen = "0.0.0.0" + d.Settings.AdminListen[strings.LastIndexByte(d.Settings.AdminListen, ':'):]
	d.Addresses = func() (list []net.Addr, err error) {
		for _, a := range addresses {
			list = append(list, &net.IPNet{IP: net.ParseIP(a)})
		}
		return list, nil
	}
}

// findings returns what a doctor finds, as level, id and remedy. It checks that
// every finding is explained, and that nothing secret is printed.
func findings(t *testing.T, d *doctor.Config) (list [][3]string) {
	t.Helper()
	r := doctor.Run(t.Context(), *d)
	for _, c := range r.Checks {
		for _, f := range c.Findings {
			if f.ID == "data_volatile" && d.Settings.DataDir != "/dev/shm" {
				continue // the tests' own directories may be in memory
			}
			remedy, isNATS := strings.CutPrefix(f.Remedy, fmt.Sprintf("nats --server 'nats://%s' ", strings.TrimPrefix(broker.URL(d.Settings), "nats://")))
			if isNATS {
				remedy = "nats " + remedy
			} else if strings.HasPrefix(f.Remedy, "nats stream") {
				t.Errorf("%s names no server: %s", f.ID, f.Remedy)
			}
			list = append(list, [3]string{f.Level.String(), f.ID, remedy})
			if f.Found == "" || f.Why == "" || f.Remedy == "" {
				t.Errorf("%s is not explained: %+v", c.Check, f)
			}
		}
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Error(err)
	}
	for _, secret := range append(d.Settings.Secrets, "pa55word") {
		if key := secret[strings.LastIndexByte(secret, '_')+1:]; key != "" && strings.Contains(out.String(), key) {
			t.Errorf("the report contains %q:\n%s", key, out.String())
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	return list
}

// requireFindings checks that a doctor finds what is wanted and nothing else.
// Each is a level, an id, and a part of the remedy.
func requireFindings(t *testing.T, d *doctor.Config, want ...string) {
	t.Helper()
	if problem := compareFindings(t, d, want); problem != "" {
		t.Error(problem)
	}
}

// compareFindings returns how the findings differ from those that are wanted, or "".
func compareFindings(t *testing.T, d *doctor.Config, want []string) (problem string) {
	t.Helper()
	var got []string
	remedies := ""
	for _, f := range findings(t, d) {
		got = append(got, f[0]+" "+f[1])
		remedies += f[1] + ": " + f[2] + "\n"
	}
	var wanted []string
	for _, w := range want {
		finding, remedy, _ := strings.Cut(w, ": ")
		wanted = append(wanted, finding)
		_, id, _ := strings.Cut(finding, " ")
		if !slices.ContainsFunc(strings.Split(remedies, "\n"), func(line string) bool {
			return strings.HasPrefix(line, id+": ") && strings.Contains(line, remedy)
		}) {
			problem += fmt.Sprintf("no finding %s has %q in its remedy:\n%s", id, remedy, remedies)
		}
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		problem += "findings (-want +got):\n" + diff
	}
	return problem
}

// byHand creates an event stream that somebody has made, and a good quarantine
// beside it, and returns the settings of s for them.
func byHand(t *testing.T, js jetstream.JetStream, s config.Settings, name string, change func(*jetstream.StreamConfig)) config.Settings {
	t.Helper()
	s.Stream, s.Subject = strings.ToUpper(name), name
	for _, kind := range []schema.Kind{schema.KindEvent, schema.KindQuarantine} {
		c := jetstream.StreamConfig{
			Name: kind.Stream(s.Stream), Subjects: []string{kind.Prefix(s.Subject) + ".>"}, Discard: jetstream.DiscardNew,
			Duplicates: 48 * time.Hour, AllowDirect: true, AllowAtomicPublish: true, Metadata: kind.Metadata(s.Stream),
		}
		if kind == schema.KindEvent {
			change(&c)
		}
		if c.Sealed { // a stream is created open
			c.Sealed = false
			defer func() {
				c.Sealed = true
				if _, err := js.UpdateStream(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}()
		}
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// fakeAdmin is the admin listener of an ingress with the given answers.
func fakeAdmin(t *testing.T, metrics string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, metrics) })
	mux.HandleFunc("GET /jsz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, metrics) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// proxy starts a proxy before the ingress of s, which answers larger bodies 413 and
// changes requests. It returns the URL.
func proxy(t *testing.T, s config.Settings, limit int64, change func(*http.Request)) string {
	t.Helper()
	to, err := url.Parse("http://" + s.Listen)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(to)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > limit {
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, "<html>too large</html>", http.StatusRequestEntityTooLarge)
			return
		}
		if change != nil {
			change(r)
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + s.Path
}

// monitored starts a broker with a monitoring port, and returns where that is.
func startMonitored(t *testing.T) (broker *embedded.Broker, monitor string) {
	t.Helper()
	monitor = embeddedtest.FreeAddress(t)
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte("listen: \""+embeddedtest.FreeAddress(t)+"\"\nhttp: \""+monitor+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return embeddedtest.StartBroker(t, embedded.Config{ConfigFile: file}), "http://" + monitor
}

// startServer starts a nats-server as anybody may have set it up.
func startServer(t *testing.T, change func(*natsserver.Options)) *natsserver.Server {
	t.Helper()
	o := &natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 9 << 20, AuthTimeout: 10}
	change(o)
	s, err := natsserver.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(embeddedtest.Timeout) {
		t.Fatal("no server")
	}
	return s
}

// startOlder starts a proxy that makes a broker report an old version.
func startOlder(t *testing.T, broker string) (address string) {
	t.Helper()
	return relay(t, broker, func(line []byte) []byte {
		line = bytes.Replace(line, []byte(`"version":"`+natsserver.VERSION+`"`), []byte(`"version":"2.11.9"`), 1)
		return bytes.Replace(line, fmt.Appendf(nil, `"level":%d`, natsserver.JSApiLevel), []byte(`"level":1`), 1)
	})
}

// startSlow puts itself before a broker that greets a client later than nats.go expects
// by default.
func startSlow(t *testing.T, broker string) (address string) {
	t.Helper()
	return relay(t, broker, func(line []byte) []byte {
		if bytes.HasPrefix(line, []byte("INFO ")) {
			time.Sleep(nats.DefaultTimeout + time.Second/2)
		}
		return line
	})
}

// relay puts itself before a broker and changes the lines that it sends.
func relay(t *testing.T, broker string, change func([]byte) []byte) (address string) {
	t.Helper()
	return serveTCP(t, func(client *net.TCPConn) {
		to, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		defer to.Close()
		context.AfterFunc(t.Context(), func() { to.Close() })
		go func() { _, _ = io.Copy(to, client); to.Close() }()
		for lines := bufio.NewReader(to); ; {
			line, err := lines.ReadBytes('\n')
			if _, broken := client.Write(change(line)); err != nil || broken != nil {
				return
			}
		}
	})
}

// serveTCP starts a server that handles connections, and returns its address.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
	return listener.Addr().String()
}
