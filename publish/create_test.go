package publish_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
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
