package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

var update = flag.Bool("update", false, "rewrite the examples in docs/consumers.md")

// TestMain makes this binary the command as well, and a broker: scripts and
// tests that need a process of their own find them on the PATH.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"versive-ingress": main, "broker": brokerMain, "transactional": transactionalMain})
}

// suite runs the tests with no settings in the environment.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "INGRESS_") {
			os.Unsetenv(name)
		}
	}
	return embeddedtest.Run(s.m, sender.Client.CloseIdleConnections, http.DefaultClient.CloseIdleConnections)
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
	s.Listen, s.AdminListen, s.NATSListen = embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)
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
	log            *embeddedtest.Log
}

// run starts an ingress and waits until it takes webhooks. Its address can stay in use
// briefly after another one: a process that another test starts inherits the listener
// until it executes its program.
func run(t testing.TB, s config.Settings) (sys *system) {
	t.Helper()
	embeddedtest.Await(t, "the address is free", func() bool {
		var err error
		if sys, err = tryRun(t, s); err != nil && !strings.Contains(err.Error(), "address already in use") {
			t.Fatalf("start: %v", err)
		}
		return err == nil
	})
	return sys
}

func tryRun(t testing.TB, s config.Settings) (*system, error) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatalf("settings: %v", err)
	}
	log := &embeddedtest.Log{}
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

// readAll returns the messages of a stream, read with nothing of ours.
func readAll(t testing.TB, js jetstream.JetStream, name string) []jetstream.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
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
