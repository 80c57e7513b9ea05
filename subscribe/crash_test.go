package subscribe_test

import (
	"fmt"
	"path/filepath"
	"testing"
)

// A consumer may be killed at every point between the delivery of an event and the
// confirmation of its acknowledgement. No event is lost by that, and where the
// work is committed with the id, none is processed twice.
func TestConsumeCrash(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"transaction", "plain", "bare"} {
		for _, point := range []string{"delivered", "worked", "acking", "acked"} {
			t.Run(kind+"/"+point, func(t *testing.T) {
				t.Parallel()
				s := newSystem(t)
				const events = 24 // three processes may acknowledge six each
				ids := make(map[string]bool)
				s.storeMany(t, events)
				for i := range events {
					ids[fmt.Sprint("msg_", i)] = true
				}
				file := filepath.Join(t.TempDir(), kind)
				for range 3 { // the third event of each process kills it
					if err := startChild(t, kind, s.URL(), file, point+":3").Wait(); err == nil || err.Error() != "signal: killed" {
						t.Fatalf("the child ended with %v, want it killed", err)
					}
				}
				child := startChild(t, kind, s.URL(), file, "")
				s.awaitDone(t, kind)
				kill(child)
				_, again := requireDone(t, kind, file, ids)
				// Redeliveries show that it crashed at the intended point.
				if atLeastOnce := kind != "transaction" && (point == "worked" || point == "acking"); atLeastOnce && again == 0 {
					t.Error("nothing was redelivered, although work was done without being acknowledged")
				}
			})
		}
	}
}
