package embeddedtest

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
)

// Timeout is how long [Await] and [Receive] wait, and how long anything else may take
// before a test fails. It is generous, for a busy machine.
const Timeout = 2 * time.Minute

// Await waits until condition holds. If it does not within [Timeout], the test fails
// with what was awaited.
func Await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Timeout); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Timeout, what)
		}
	}
}

// Receive waits for a value from a channel, or for the channel to be closed. If
// neither happens within [Timeout], the test fails with what was awaited.
func Receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Timeout):
		t.Fatalf("not within %v: %s", Timeout, what)
		panic("unreachable")
	}
}

// A Log is a log that is read while it is written.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// StartBroker runs a broker until the test ends. By default it has a temporary
// directory and a free port, and takes messages of 9 MiB, which leaves room for the
// largest events of an ingress.
func StartBroker(t testing.TB, cfg embedded.Config) (broker *embedded.Broker) {
	t.Helper()
	cfg.Dir = cmp.Or(cfg.Dir, t.TempDir())
	cfg.MaxPayload = cmp.Or(cfg.MaxPayload, 9<<20)
	if cfg.ConfigFile == "" {
		cfg.Listen = cmp.Or(cfg.Listen, "127.0.0.1:0")
	}
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	// The address of a broker that was stopped can stay in use briefly: a process that
	// another test starts inherits the listener until it executes its program.
	Await(t, "the broker's address is free", func() bool {
		var err error
		if broker, err = embedded.Start(ctx, cfg); err != nil && !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Cleanup(broker.Stop)
	return broker
}

// Connect returns JetStream on a connection that ends with the test. It reconnects
// whenever the broker is back.
func Connect(t testing.TB, url string, options ...nats.Option) jetstream.JetStream {
	t.Helper()
	options = append([]nats.Option{nats.Timeout(Timeout), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond)}, options...)
	nc, err := nats.Connect(url, options...)
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
