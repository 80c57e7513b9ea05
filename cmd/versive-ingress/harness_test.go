package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/goleak"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

var update = flag.Bool("update", false, "rewrite the examples in docs/consumers.md")

// TestMain makes this binary the command as well, and a broker: scripts and
// tests that need a process of their own find them on the PATH.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"versive-ingress": main, "broker": brokerMain})
}

// suite runs the tests with no settings in the environment, and fails when a
// goroutine is left after them.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "INGRESS_") {
			os.Unsetenv(name)
		}
	}
	defer takePorts().Close()
	code := s.m.Run()
	sender.Client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	// The server's own, which outlive the mirror and the source that they were for.
	mirror := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*stream).setupMirrorConsumer.func3")
	source := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3")
	// Now and then it outlives the server.
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	if err := leaked(mirror, source, flusher); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// leaked returns which goroutines are left. On a busy machine they take longer
// to end than goleak waits.
func leaked(ignored ...goleak.Option) error {
	for deadline := time.Now().Add(patience); ; {
		if err := goleak.Find(ignored...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// The ports of this process's tests. They are below those that the system gives
// out by itself, for a broker must come back where it was.
var (
	firstPort int
	nextPort  atomic.Int32
)

const portCount = 2000

// takePorts takes ports for this process alone. Whoever listens on the first
// has them all.
func takePorts() net.Listener {
	for first := 20000; first < 32000; first += portCount {
		if l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first)); err == nil {
			firstPort = first
			return l
		}
	}
	panic("six other processes run these tests")
}

func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := "127.0.0.1:" + strconv.Itoa(firstPort+1+int(nextPort.Add(1)%(portCount-1)))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// newSettings returns the defaults, with a secret, a directory and addresses
// of their own.
func newSettings(t testing.TB) config.Settings {
	t.Helper()
	s, err := config.Read()
	if err != nil {
		t.Fatal(err)
	}
	s.Secrets = []string{config.NewSecret()}
	s.Listen, s.AdminListen, s.NATSListen = freeAddr(t), freeAddr(t), freeAddr(t)
	s.DataDir = t.TempDir()
	return s
}

// withBroker returns s for the broker at address instead of the embedded one.
func withBroker(s config.Settings, address string) config.Settings {
	s.NATSURL, s.NATSListen = "nats://"+address, ""
	return s
}

// A system is an ingress under test, with its log.
type system struct {
	*server.Server // nil if it runs as a process
	settings       config.Settings
	url            string // of the webhook endpoint
	log            *logBuffer
}

// run starts an ingress and waits until it takes webhooks.
func run(t testing.TB, s config.Settings) *system {
	t.Helper()
	return listening(t, func() (*system, error) { return tryRun(t, s) })
}

// listening starts what listens. Its address may be taken for a moment yet by
// what has listened there before and has ended: a process that another test is
// just starting has a copy of all that was open, until it runs its program.
func listening[T any](t testing.TB, start func() (T, error)) (started T) {
	t.Helper()
	eventually(t, "the address is free", func() bool {
		var err error
		if started, err = start(); err != nil && !strings.Contains(err.Error(), "address already in use") {
			t.Fatalf("start: %v", err)
		}
		return err == nil
	})
	return started
}

func tryRun(t testing.TB, s config.Settings) (*system, error) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatalf("settings: %v", err)
	}
	log := &logBuffer{}
	i, err := server.Start(t.Context(), server.Config{
		Settings: s, Version: version, Commit: revision(),
		Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return &system{log: log}, err
	}
	t.Cleanup(i.Stop)
	return &system{i, s, i.WebhookURL(), log}, nil
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startBroker starts a broker that the ingress does not know from inside.
func startBroker(t testing.TB, c embedded.Config) *embedded.Broker {
	t.Helper()
	b := listening(t, func() (*embedded.Broker, error) { return embedded.Start(t.Context(), c) })
	t.Cleanup(b.Stop)
	return b
}

// interview returns the documented body of another interview.
func interview(id string) []byte {
	return bytes.ReplaceAll(sample, []byte(sampleInterview), []byte(id))
}

// signed returns a webhook as the vendor sends it. It may be called by any
// goroutine, so what cannot happen panics.
func signed(url, secret, id string, body []byte) *http.Request {
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	signature, err := webhook.Sign(id, now, body)
	if err != nil {
		panic(err)
	}
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Svix-Id", id)
	request.Header.Set("Svix-Timestamp", strconv.FormatInt(now.Unix(), 10))
	request.Header.Set("Svix-Signature", signature)
	return request
}

// post posts a signed webhook and returns the answer, which it requires.
func (s *system) post(t testing.TB, id string, body []byte) sender.Answer {
	t.Helper()
	vendor := sender.Sender{URL: s.url}
	if err := vendor.SignWith(s.settings.Secrets[0]); err != nil {
		t.Fatal(err)
	}
	a, err := vendor.Post(t.Context(), id, time.Now(), body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// get returns the status and the text at url; 0 if nothing answers.
func get(url string) (int, string) {
	response, err := sender.Client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

func readyz(s config.Settings) int {
	status, _ := get("http://" + s.AdminListen + "/readyz")
	return status
}

// patience is how long anything may take before a test fails. Far more than
// any of it should, for a busy machine.
const patience = 2 * time.Minute

// eventually waits for what must come true.
func eventually(t testing.TB, what string, come func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !come(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func connect(t testing.TB, url string, options ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append(options, nats.Timeout(patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// readAll returns the messages of a stream, read with nothing of ours.
func readAll(t testing.TB, js jetstream.JetStream, name string) []jetstream.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	var all []jetstream.Msg
	for range stream.CachedInfo().State.Msgs {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("reading the stream: %v", err)
		}
		all = append(all, m)
	}
	return all
}

// readStream reads a whole event stream and returns the sequences of each id.
func readStream(t testing.TB, js jetstream.JetStream, stream string) map[string][]uint64 {
	t.Helper()
	found := make(map[string][]uint64)
	for _, msg := range readAll(t, js, stream) {
		event, err := schema.Decode(msg.Headers(), msg.Data())
		if err != nil {
			t.Fatalf("decoding %s: %v", msg.Subject(), err)
		}
		metadata, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		found[event.ID] = append(found[event.ID], metadata.Sequence.Stream)
	}
	return found
}

// requireStored checks the promise: what was answered 2xx is in the stream,
// once, where the answer said (if it was read: 0), and nothing is there twice.
func requireStored(t testing.TB, js jetstream.JetStream, stream string, accepted map[string]uint64) {
	t.Helper()
	found := readStream(t, js, stream)
	for id, sequence := range accepted {
		if at := found[id]; len(at) != 1 || sequence != 0 && at[0] != sequence {
			t.Errorf("%s was answered 2xx with sequence %d; the stream has it at %v", id, sequence, at)
		}
	}
	for id, at := range found {
		if len(at) != 1 {
			t.Errorf("%s is in the stream %d times: %v", id, len(at), at)
		}
	}
}
