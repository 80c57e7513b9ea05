package publish_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A stream that the broker does not know is created only if MayCreate allows it.
func TestStreamMayNotBeCreated(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	reason := errors.New("its directory exists")
	var allowed atomic.Bool
	cfg := config(broker.URL())
	cfg.MayCreate = func(string) error {
		if allowed.Load() {
			return nil
		}
		return reason
	}
	requireNone := func() {
		t.Helper()
		if _, err := js.Stream(t.Context(), "VERSIVE"); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("the stream was created: %v", err)
		}
	}
	p, err := publish.Open(t.Context(), cfg)
	if conflict, ok := errors.AsType[*publish.ConflictError](err); !ok || !strings.Contains(conflict.Problem, reason.Error()) {
		if err == nil {
			p.Close()
		}
		t.Errorf("got %v, want a conflict", err)
	}
	requireNone()

	allowed.Store(true)
	p = openPublisher(t, cfg)
	allowed.Store(false)
	if err := js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the publisher is not ready", func() bool {
		err := p.Ready()
		return err != nil && strings.Contains(err.Error(), reason.Error())
	})
	_, err = p.Publish(t.Context(), event(t, "msg_1"))
	wantReason(t, err, "refused")
	requireNone()

	allowed.Store(true)
	embeddedtest.Await(t, "the publisher is ready", func() bool { return p.Ready() == nil })
}

// On a slow disk the creation of a stream may not be answered in time. It is requested
// again, although the directory of the stream may exist by then.
func TestSlowCreationIsRepeated(t *testing.T) {
	t.Parallel()
	cfg := config(embeddedtest.StartBroker(t, embedded.Config{}).URL())
	asked := make(map[string]bool)
	cfg.MayCreate = func(stream string) error {
		if asked[stream] {
			return errors.New("its directory exists")
		}
		asked[stream] = true
		if stream == cfg.Stream {
			time.Sleep(2500 * time.Millisecond) // longer than a request may take
		}
		return nil
	}
	p := openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Error(err)
	}
}

// An account can require that streams have a limit. Without it, the error names the
// setting.
func TestAccountRequiresMaxBytes(t *testing.T) {
	t.Parallel()
	s, _ := startConfigured(t, fmt.Sprintf(`
		listen: "127.0.0.1:-1"
		jetstream { store_dir: %q }
		no_auth_user: ingress
		accounts {
			INGRESS {
				jetstream { max_file: 1GB, max_bytes_required: true }
				users: [{user: ingress, password: secret}]
			}
		}`, t.TempDir()))
	cfg := config(s.ClientURL())
	p, err := publish.Open(t.Context(), cfg)
	if conflict, ok := errors.AsType[*publish.ConflictError](err); !ok || !strings.Contains(conflict.Problem, "INGRESS_STREAM_MAX_BYTES") {
		if err == nil {
			p.Close()
		}
		t.Fatalf("got %v, want a conflict", err)
	}
	cfg.MaxBytes = 10 << 20
	p = openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}

	// A consumer creates the stream of dead letters.
	js := embeddedtest.Connect(t, s.ClientURL())
	ctx, stop := context.WithCancel(t.Context())
	consumed := make(chan error, 1)
	go func() {
		consumed <- subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: "test",
			Event: func(context.Context, schema.Event, subscribe.Message) error {
				stop()
				return nil
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	}()
	if err := embeddedtest.Receive(t, "the event is consumed", consumed); err != nil {
		t.Fatal(err)
	}
	dead, err := js.Stream(t.Context(), "VERSIVE_DEAD")
	if err != nil {
		t.Fatal(err)
	}
	if size := dead.CachedInfo().Config.MaxBytes; size != cfg.MaxBytes {
		t.Errorf("dead letters are limited to %d bytes, want %d", size, cfg.MaxBytes)
	}
}

// A broker whose store has become smaller than the max_bytes of a stream does not update
// the stream. The error names the setting.
func TestStoreBelowMaxBytes(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), MaxStore: 2 << 30}
	broker := embeddedtest.StartBroker(t, cfg)
	stream := byHand(func(c *jetstream.StreamConfig) { c.MaxBytes, c.AllowDirect = 1<<30, false })
	if _, err := embeddedtest.Connect(t, broker.URL()).CreateStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	broker.Stop()
	cfg.MaxStore = 1 << 29
	small := config(embeddedtest.StartBroker(t, cfg).URL())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	small.Logger = slog.New(slog.NewTextHandler(onWrite(cancel), &slog.HandlerOptions{Level: slog.LevelWarn})) // that it waits
	p, err := publish.Open(ctx, small)
	if conflict, ok := errors.AsType[*publish.ConflictError](err); !ok || !strings.Contains(conflict.Problem, "INGRESS_MAX_STORE") {
		if err == nil {
			p.Close()
		}
		t.Fatalf("got %v, want a conflict", err)
	}
}
