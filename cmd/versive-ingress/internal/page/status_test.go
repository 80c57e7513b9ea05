package page

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Requests that wait for a slow broker share the status, instead of one after the other
// reading their own.
func TestSlowStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		mux := http.NewServeMux()
		New(Config{
			Metrics:   prometheus.NewRegistry(),
			JetStream: func() jetstream.JetStream { return nil },
			Ready:     func() error { reads.Add(1); time.Sleep(readTimeout); return nil },
		}).Register(mux)
		begin := time.Now()
		for range 10 {
			go func() {
				response := httptest.NewRecorder()
				mux.ServeHTTP(response, httptest.NewRequest("GET", "/status", http.NoBody))
				if took := time.Since(begin); response.Code != http.StatusOK || took > readTimeout {
					t.Errorf("%d after %v", response.Code, took)
				}
			}()
		}
		time.Sleep(time.Minute)
		if n := reads.Load(); n != 1 {
			t.Errorf("the status was read %d times", n)
		}
	})
}
