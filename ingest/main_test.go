package ingest_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(loadEnv); url != "" { // the client process of BenchmarkHandler
		os.Exit(runLoad(url, os.Stdin, os.Stdout))
	}
	code := m.Run()
	// Goroutines of nats-server that can outlive its shutdown.
	pool := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1")
	flusher := goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop")
	if err := leaked(pool, flusher); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// leaked returns an error that lists leaked goroutines. It waits longer than goleak
// does, because they end late on a busy machine.
func leaked(ignored ...goleak.Option) error {
	for deadline := time.Now().Add(patience); ; {
		if err := goleak.Find(ignored...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
