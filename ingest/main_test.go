package ingest_test

import (
	"os"
	"testing"

	"versive-ingress/publish/embedded/embeddedtest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(loadEnv); url != "" { // the client process of BenchmarkHandler
		os.Exit(runLoad(url, os.Stdin, os.Stdout))
	}
	os.Exit(embeddedtest.Run(m))
}
