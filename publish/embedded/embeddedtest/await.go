package embeddedtest

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// Timeout is how long [Await] and [Receive] wait, and how long anything else may take
// before a test fails. It is generous, for a busy machine.
const Timeout = 2 * time.Minute

// Await waits until condition holds. If it does not within [Timeout], the test fails
// with what was awaited.
func Await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); !condition(); {
		waited := time.Since(began)
		if waited > Timeout {
			t.Fatalf("not within %v: %s", Timeout, what)
		}
		// A condition can cost a scrape or the reading of a stream, and many tests wait
		// concurrently: the longer one has waited, the less often it looks.
		time.Sleep(min(2*time.Millisecond+waited/10, 50*time.Millisecond))
	}
}

// Receive waits for a value from a channel, or for the channel to be closed. If
// neither happens within [Timeout], the test fails with what was awaited.
func Receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Timeout):
		t.Fatalf("not within %v: %s", Timeout, what)
		panic("unreachable")
	}
}

// A Log is a log that is read while it is written.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
