package main

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"versive-ingress/publish/embedded"
)

// TestMain makes this binary the bench's references as well: a bench under test
// starts itself. The tests fail if a goroutine is left.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && references[os.Args[1]] != nil {
		main()
		return
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := leaked(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// testTimeout is the time after which a test fails: far more than anything needs, even
// on a busy machine.
const testTimeout = 2 * time.Minute

// leaked returns an error if goroutines are left. On a busy machine they take
// longer to end than goleak waits.
func leaked() error {
	// The server's own, which occasionally outlives it.
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	for deadline := time.Now().Add(testTimeout); ; {
		if err := goleak.Find(flusher); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// newStream returns JetStream on an embedded broker with a stream for any subject
// below "bench". A duplicate window of 0 is the server's default.
func newStream(t *testing.T, duplicateWindow time.Duration) jetstream.JetStream {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Stop)
	js, err := connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(js.Conn().Close)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"bench.>"}, Duplicates: duplicateWindow})
	if err != nil {
		t.Fatal(err)
	}
	return js
}
