package ingest_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(loadEnv); url != "" { // a process of BenchmarkHandler
		os.Exit(runLoad(url, os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m,
		// The server's own, which outlive its shutdown.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"),
	)
}
