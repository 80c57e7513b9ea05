package embeddedtest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
)

// StartBroker runs a broker until the test ends. By default it has a temporary
// directory and a free port, and takes messages of 9 MiB, which leaves room for the
// largest events of an ingress.
func StartBroker(t testing.TB, cfg embedded.Config) (broker *embedded.Broker) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Listen == "" && cfg.ConfigFile == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.MaxPayload == 0 {
		cfg.MaxPayload = 9 << 20
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
