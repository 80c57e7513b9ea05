package ingest_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// A flood of bad requests is logged as a few lines and the number of those that
// were dropped. Verified requests are always logged.
func TestFloodInLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &logs{}
		h, err := ingest.New(ingest.Config{
			Path: webhookPath, Secrets: []string{secret}, Tolerance: time.Hour, MaxBody: maxBody, MaxInflight: maxInflight,
			Publisher: fake{fullForOne},
			Logger:    slog.New(slog.NewJSONHandler(log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		h.RejectImmediately()
		send := func(n int, path, id, body, signature string) {
			for range n {
				r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
				r.Header.Set("Svix-Id", id)
				r.Header.Set("Svix-Timestamp", unix(time.Now()))
				r.Header.Set("Svix-Signature", signature)
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
		}
		// lines returns the number of lines by outcome and reason, and of those that
		// were dropped.
		lines := func() (written, leftOut map[string]int) {
			written, leftOut = map[string]int{}, map[string]int{}
			all, _ := log.take(t)
			for _, line := range all {
				if key := strings.TrimSpace(line.Outcome + " " + line.Reason); line.LeftOut > 0 {
					leftOut[key] += line.LeftOut
				} else {
					written[key]++
				}
			}
			return written, leftOut
		}
		expect := func(when string, written, leftOut map[string]int) {
			t.Helper()
			w, l := lines()
			for key := range w {
				if w[key] != written[key] {
					t.Errorf("%s: %d lines of %s, want %d", when, w[key], key, written[key])
				}
			}
			for key := range written {
				if w[key] == 0 {
					t.Errorf("%s: no line of %s", when, key)
				}
			}
			if len(l) != len(leftOut) || l["unauthorized signature"] != leftOut["unauthorized signature"] {
				t.Errorf("%s: %v were dropped, want %v", when, l, leftOut)
			}
		}

		send(1000, webhookPath, "msg_forged", "{}", "v1,x")
		send(3, "/elsewhere", "msg_lost", "{}", "v1,x")
		for id, body := range map[string]string{"msg_1": event(""), "msg_2": "{", "msg_full": event("")} {
			send(30, webhookPath, id, body, sign(t, secret, id, time.Now(), body))
		}
		expect("in the flood", map[string]int{
			"unauthorized signature": 10, "not_found path": 3,
			"stored": 30, "quarantined malformed": 30, "unavailable full": 30,
		}, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		expect("after it", nil, map[string]int{"unauthorized signature": 990})

		send(1, webhookPath, "msg_forged", "{}", "v1,x")
		time.Sleep(time.Second)
		synctest.Wait()
		expect("in the calm", map[string]int{"unauthorized signature": 1}, nil)
	})
}

// fullForOne fails for msg_full and publishes everything else.
func fullForOne(_ context.Context, m schema.Message) (schema.Receipt, error) {
	if m.ID == "msg_full" {
		return schema.Receipt{}, namedError{"full"}
	}
	return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
}
