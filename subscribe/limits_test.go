package subscribe_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/subscribe"
)

// A server that limits requests and unacknowledged messages below what this package
// asks for is read nevertheless.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	text := "listen: \"127.0.0.1:-1\"\njetstream { limits { max_request_batch: 3, max_ack_pending: 2 } }"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSystemIn(t, embedded.Config{ConfigFile: file})
	s.storeMany(t, 10)

	requests, err := s.js.Conn().SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.>")
	if err != nil {
		t.Fatal(err)
	}
	ranged := make(chan int, 1)
	go func() {
		n := 0
		for _, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
			if err != nil {
				t.Error(err)
				break
			}
			n++
		}
		ranged <- n
	}()
	if n := embeddedtest.Receive(t, "the range ends", ranged); n != 10 {
		t.Errorf("read %d events, want 10", n)
	}
	if n, _, err := requests.Pending(); err != nil || n != 4 {
		t.Errorf("10 events took %d requests, %v; want 4", n, err)
	}
	if err := requests.Unsubscribe(); err != nil {
		t.Fatal(err)
	}

	for _, run := range []string{"new", "existing"} { // durable consumer
		var got record
		c := got.consumer()
		c.Concurrency = 8
		stop := start(t, s.source, c)
		s.store(t, "msg_"+run, "study", run)
		embeddedtest.Await(t, "the last event is handled", func() bool { return got.count("msg_"+run) == 1 })
		s.awaitDone(t, c.Durable) // others may be handled after it
		stop()
		if run == "new" {
			for i := range 10 {
				if id := fmt.Sprint("msg_", i); got.count(id) != 1 {
					t.Errorf("%s was handled %d times, want once", id, got.count(id))
				}
			}
		}
	}
}
