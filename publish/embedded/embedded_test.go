package embedded_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The data directory is locked for as long as the broker runs.
func TestDirIsLocked(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	first := embeddedtest.StartBroker(t, cfg)
	_, err := embedded.Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("got %v, want an error that names this process", err)
	}
	dupFile(t, filepath.Join(cfg.Dir, "lock"))
	first.Stop()
	embeddedtest.StartBroker(t, cfg)
}

// dupFile duplicates this process's descriptor of path until the test ends, as a
// child process does between fork and exec.
func dupFile(t *testing.T, path string) {
	t.Helper()
	var want, got syscall.Stat_t
	if err := syscall.Stat(path, &want); err != nil {
		t.Fatal(err)
	}
	for fd := range 1 << 10 {
		if syscall.Fstat(fd, &got) == nil && got.Dev == want.Dev && got.Ino == want.Ino {
			kept, err := syscall.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Close(kept) })
			return
		}
	}
	t.Fatalf("%s is not open", path)
}

// A message that was stored is there after a restart.
func TestStoreSurvivesRestart(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	broker := embeddedtest.StartBroker(t, cfg)
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.1", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	broker.Stop()

	stream, err := inProcess(t, embeddedtest.StartBroker(t, cfg)).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(t.Context(), 1); err != nil || string(m.Data) != "kept" {
		t.Errorf("got %v, %v", m, err)
	}
}

func inProcess(t *testing.T, b *embedded.Broker) jetstream.JetStream {
	t.Helper()
	return embeddedtest.Connect(t, "", nats.InProcessServer(b))
}

// The monitoring port reports sync_interval: always and the limits.
func TestSyncsAlways(t *testing.T) {
	t.Parallel()
	address := embeddedtest.FreeAddress(t)
	embeddedtest.StartBroker(t, embedded.Config{
		Dir:        t.TempDir(),
		ConfigFile: writeConfig(t, fmt.Sprintf("listen: \"127.0.0.1:-1\"\nhttp: %q\njetstream { sync_interval: 2m }", address)),
		MaxStore:   1 << 30,
		MaxPayload: 9 << 20,
	})
	var info struct {
		Config struct {
			SyncAlways bool  `json:"sync_always"`
			MaxStorage int64 `json:"max_storage"`
		} `json:"config"`
	}
	response, err := http.Get("http://" + address + "/jsz?config=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.UnmarshalRead(response.Body, &info); err != nil {
		t.Fatal(err)
	}
	if !info.Config.SyncAlways || info.Config.MaxStorage != 1<<30 {
		t.Errorf("got %+v", info.Config)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{MaxStore: 64 << 10})
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if err := broker.Ready(); err != nil {
		t.Errorf("an empty store is not ready: %v", err)
	}
	for i := 0; ; i++ {
		if _, err := js.Publish(t.Context(), "s", make([]byte, 1<<10)); err != nil {
			break
		}
		if i > 100 {
			t.Fatal("the store has no limit")
		}
	}
	if err := broker.Ready(); err == nil {
		t.Error("a full store is ready")
	}
}

// newCertificate returns the files of a certificate that is its own authority.
func newCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=test", "-out", cert, "-keyout", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return cert, key
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cert, key := newCertificate(t)
	for _, test := range []struct {
		name string
		cfg  embedded.Config
		want string // part of the error
	}{
		{"an open listener without authorization", embedded.Config{Listen: "0.0.0.0:0"}, "without authorization"},
		{"all interfaces without authorization", embedded.Config{Listen: ":0"}, "without authorization"},
		{"all interfaces in a file", embedded.Config{ConfigFile: writeConfig(t, `listen: "0.0.0.0:-1"`)}, "without authorization"},
		{"an open WebSocket", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			websocket { listen: "0.0.0.0:-1", no_tls: true }`)}, "without authorization"},
		{"an open port for leaf nodes", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			leafnodes { listen: "0.0.0.0:-1" }`)}, "without authorization"},
		{"an open port for leaf nodes beside users of clients", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			no_auth_user: anyone
			authorization { users: [{user: anyone, password: x}] }
			leafnodes { listen: "0.0.0.0:-1" }`)}, "without authorization"},
		{"an open port for routes", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			cluster { name: c, listen: "0.0.0.0:-1" }`)}, "configure authorization in cluster"},
		{"an open port for routes beside users of clients", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			authorization { users: [{user: reader, password: x}] }
			cluster { name: c, port: -1 }`)}, "configure authorization in cluster"},
		{"an open port for routes that do not verify whom they connect to", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			cluster { name: c, port: -1, tls { cert_file: "`+cert+`", key_file: "`+key+`", ca_file: "`+cert+`", insecure: true } }`)}, "tls with ca_file and without insecure"},
		{"an open port for routes that any public authority admits to", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			cluster { name: c, port: -1, tls { cert_file: "`+cert+`", key_file: "`+key+`" } }`)}, "tls with ca_file"},
		{"an open port for gateways", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			gateway { name: g, listen: "0.0.0.0:-1" }`)}, "configure authorization in gateway"},
		{"an open port for MQTT", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			mqtt { listen: "0.0.0.0:-1" }`)}, "mqtt: listening"},
		{"a default user of WebSockets", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			authorization { users: [{user: anyone, password: x}] }
			websocket { listen: "0.0.0.0:-1", no_tls: true, no_auth_user: anyone }`)}, "no no_auth_user"},
		{"an open WebSocket beside clients with certificates", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			tls { cert_file: "`+cert+`", key_file: "`+key+`", ca_file: "`+cert+`", verify_and_map: true }
			websocket { listen: "0.0.0.0:-1", no_tls: true }`)}, "websocket: listening"},
		{"an open monitoring port", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "127.0.0.1:-1"
			http: "0.0.0.0:-1"`)}, `set http: "127.0.0.1:8222"`},
		{"a monitoring port beside clients with users", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "0.0.0.0:-1"
			authorization { users: [{user: reader, password: x}] }
			http_port: -1`)}, `set http: "127.0.0.1:8222"`},
		{"an open profiling port", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "0.0.0.0:-1"
			authorization { users: [{user: reader, password: x}] }
			prof_port: 65432`)}, "remove prof_port"},
		{"a default user", embedded.Config{ConfigFile: writeConfig(t, `
			listen: "0.0.0.0:-1"
			no_auth_user: anyone
			authorization { users: [{user: anyone, password: x}] }`)}, "without authorization"},
		{"a listener in both places", embedded.Config{Listen: "127.0.0.1:0", ConfigFile: writeConfig(t, `port: 4222`)}, "remove one of them"},
		{"another store directory", embedded.Config{ConfigFile: writeConfig(t, `jetstream { store_dir: "/elsewhere" }`)}, "store_dir"},
		{"an invalid file", embedded.Config{ConfigFile: writeConfig(t, `no_such_option: 1`)}, "configuration file"},
		{"a port that is taken", embedded.Config{Listen: taken.Addr().String()}, "address already in use"},
		{"an invalid port", embedded.Config{Listen: "127.0.0.1:http"}, "must be a number"},
		{"an invalid address", embedded.Config{Listen: "4222"}, "listen address"},
		{"a directory that is a file", embedded.Config{Dir: file, Listen: "127.0.0.1:0"}, "data directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.cfg.Dir == "" {
				test.cfg.Dir = t.TempDir()
			}
			b, err := embedded.Start(t.Context(), test.cfg)
			if err == nil {
				b.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

// With authorization, a broker may listen on all interfaces, and only its users can
// connect.
func TestAuthorization(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{ConfigFile: writeConfig(t, `
		listen: "0.0.0.0:-1"
		authorization { users: [{user: reader, password: secret}] }`)})
	if nc, err := nats.Connect(broker.URL()); err == nil {
		nc.Close()
		t.Error("a client without credentials can connect")
	}
	embeddedtest.Connect(t, broker.URL(), nats.UserInfo("reader", "secret"))
}

// With the remedies of TestStartFails, a broker may listen on all interfaces.
func TestStartsWithRemedy(t *testing.T) {
	cert, key := newCertificate(t)
	verified := `tls { cert_file: "` + cert + `", key_file: "` + key + `", ca_file: "` + cert + `" }`
	const (
		users  = "authorization { users: [{user: reader, password: x}] }\n"
		routes = `routes: ["nats://127.0.0.1:1"]`
		local  = `cluster { name: c, listen: "127.0.0.1:-1", ` + routes + " }\n"
	)
	for name, more := range map[string]string{
		"routes with authorization":   `cluster { name: c, port: -1, ` + routes + `, authorization { user: route, password: x } }`,
		"routes with TLS":             `cluster { name: c, port: -1, ` + routes + `, ` + verified + ` }`,
		"routes on loopback":          `cluster { name: c, listen: "127.0.0.1:-1", ` + routes + ` }`,
		"gateways with authorization": local + `gateway { name: c, port: -1, authorization { user: gateway, password: x } }`,
		"gateways with TLS":           local + `gateway { name: c, port: -1, ` + verified + ` }`,
		"leaf nodes with users":       users + `leafnodes { port: -1 }`,
		"WebSockets with users":       users + `websocket { port: -1, no_tls: true }`,
		"MQTT with users":             users + "server_name: mqtt\nmqtt { port: -1 }",
		"monitoring on loopback":      `http: "127.0.0.1:-1"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embeddedtest.StartBroker(t, embedded.Config{ConfigFile: writeConfig(t, "listen: \"127.0.0.1:-1\"\n"+more)})
		})
	}
}

// Leaf nodes with users of their own may connect from other machines, although
// clients have none.
func TestLeafNodeAuthorization(t *testing.T) {
	embeddedtest.StartBroker(t, embedded.Config{ConfigFile: writeConfig(t, `
		listen: "127.0.0.1:-1"
		leafnodes {
			listen: "0.0.0.0:-1"
			authorization { user: leaf, password: secret }
		}`)})
}
