package ingest_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(loadEnv); url != "" { // a process of BenchmarkHandler
		os.Exit(runLoad(url, os.Stdin, os.Stdout))
	}
	code := m.Run()
	// The server's own, which outlive its shutdown; the second one now and then.
	pool := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1")
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	if err := leaked(pool, flusher); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
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
