package ingest_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// Without a tracer, tracing costs nothing: the publisher gets the request's own
// context, and a webhook allocates no more than it did before stages were timed
// and traced.
func TestTracingOffCostsNothing(t *testing.T) {
	const before = 72 // allocations with Go 1.26, half of them by the test itself
	var published context.Context
	h, err := ingest.New(ingest.Config{
		Path: webhookPath, Secrets: []string{secret}, Tolerance: time.Minute, MaxBody: maxBody, MaxInflight: maxInflight,
		Publisher: fake{func(ctx context.Context, _ schema.Message) (schema.Receipt, error) {
			published = ctx
			return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
		}},
		Metrics: prometheus.NewRegistry(),
		Logger:  slog.New(slog.NewJSONHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		t.Fatal(err)
	}
	body := event("")
	sent := signedBy(t, "Svix", secret, "msg_1", time.Now(), body)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(sent.line + "\r\n" + strings.Join(sent.header, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	reader := strings.NewReader(body)
	least := math.Inf(1) // the race detector occasionally empties pools
	for range 200 {
		least = min(least, testing.AllocsPerRun(1, func() {
			reader.Reset(body)
			r.Body = io.NopCloser(reader)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Errorf("answered %d", w.Code)
			}
		}))
	}
	if least > before {
		t.Errorf("a webhook takes %v allocations, want at most %d", least, before)
	}
	if published != r.Context() {
		t.Error("the publisher did not get the request's context")
	}
}
