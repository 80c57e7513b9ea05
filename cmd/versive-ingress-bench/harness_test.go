package main

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// TestMain makes this binary the bench's references as well: a bench under test
// starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && references[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(embeddedtest.Run(m, http.DefaultClient.CloseIdleConnections))
}

// newStream returns JetStream on an embedded broker with a stream for any subject
// below "bench". A duplicate window of 0 is the server's default.
func newStream(t *testing.T, duplicateWindow time.Duration) jetstream.JetStream {
	t.Helper()
	js := embeddedtest.Connect(t, embeddedtest.StartBroker(t, embedded.Config{}).URL())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"bench.>"}, Duplicates: duplicateWindow})
	if err != nil {
		t.Fatal(err)
	}
	return js
}
