package ingest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"versive-ingress/ingest"
)

// Rejections beyond the limit of a second are delayed by a second, unless the
// client disconnects. Signed requests are never delayed.
func TestTarpit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, err := ingest.New(ingest.Config{
			Path: webhookPath, Secrets: []string{secret}, Tolerance: time.Hour, MaxBody: maxBody, MaxInflight: maxInflight,
			Publisher: fake{fullForOne},
		})
		if err != nil {
			t.Fatal(err)
		}
		post := func(ctx context.Context, path, id, signature string, wantStatus int, wantDelay time.Duration) {
			t.Helper()
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(event("")))
			r.Header.Set("Svix-Id", id)
			r.Header.Set("Svix-Timestamp", unix(time.Now()))
			r.Header.Set("Svix-Signature", signature)
			w := httptest.NewRecorder()
			began := time.Now()
			h.ServeHTTP(w, r)
			if delay := time.Since(began); w.Code != wantStatus || delay != wantDelay {
				t.Errorf("%s %s: %d after %v, want %d after %v", path, id, w.Code, delay, wantStatus, wantDelay)
			}
		}
		flood := func(delays ...time.Duration) {
			t.Helper()
			for _, delay := range delays {
				post(t.Context(), webhookPath, "msg_forged", "v1,x", http.StatusUnauthorized, delay)
			}
		}
		signed := func() {
			t.Helper()
			for id, status := range map[string]int{"msg_1": http.StatusOK, "msg_full": http.StatusServiceUnavailable} {
				post(t.Context(), webhookPath, id, sign(t, secret, id, time.Now(), event("")), status, 0)
			}
		}

		const limit = 1000 // rejections per second
		flood(make([]time.Duration, limit)...)
		signed()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		post(gone, webhookPath, "msg_forged", "v1,x", http.StatusUnauthorized, 0)
		post(t.Context(), "/elsewhere", "msg_lost", "v1,x", http.StatusNotFound, time.Second)
		signed()
		flood(make([]time.Duration, limit)...) // the limit applies to each second
		flood(time.Second)
	})
}
