package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"versive-ingress/publish/embedded"
)

// TestMain makes this binary the bench's hidden commands as well: a bench
// under test finds its references in itself. It fails when a goroutine is left.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
		return
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	// The server's own, which outlives it now and then.
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	if err := leaked(flusher); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long anything may take before a test fails. Far more than
// any of it should, for a busy machine.
const patience = 2 * time.Minute

// leaked returns which goroutines are left. On a busy machine they take longer
// to end than goleak waits.
func leaked(ignored ...goleak.Option) error {
	for deadline := time.Now().Add(patience); ; {
		if err := goleak.Find(ignored...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// newStream returns JetStream on an embedded broker, with a stream.
func newStream(t *testing.T, config jetstream.StreamConfig) jetstream.JetStream {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Stop)
	js, closeConn, err := connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeConn)
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	return js
}

func newTestSource(t *testing.T) *source {
	t.Helper()
	s, err := newSource(newSecret(), 2<<10)
	if err != nil {
		t.Fatal(err)
	}
	s.host = "127.0.0.1:1"
	return s
}
