package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// Half of the ninefold flood is signed by a stranger, half by nobody, all of
// it fresh and whole, and no more of it comes than nine times the rate.
func TestNinefold(t *testing.T) {
	t.Parallel()
	own := newTestSource(t)
	var unsigned, foreign atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || int64(len(body)) != r.ContentLength || len(body) < 2<<10-256 {
			t.Errorf("read %d bytes of %d, %v", len(body), r.ContentLength, err)
		}
		signature := r.Header.Get("svix-signature")
		at, _ := strconv.ParseInt(r.Header.Get("svix-timestamp"), 10, 64)
		switch age := time.Since(time.Unix(at, 0)); {
		case own.webhook.Verify(body, r.Header) == nil:
			t.Error("signed by the sender")
		case r.Header.Get("svix-id") == "" && at == 0 && signature == "":
			unsigned.Add(1)
		case r.Header.Get("svix-id") != "" && age < time.Minute && signature != "":
			foreign.Add(1)
		default:
			t.Errorf("neither unsigned nor forged: %v", r.Header)
		}
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	defer server.Close()

	began := time.Now()
	stop, err := startNinefold(t.Context(), &system{address: server.Listener.Addr().String()}, testCase{Size: 2 << 10, Connections: 1, Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	for unsigned.Load() < 20 || foreign.Load() < 20 {
		if time.Since(began) > patience {
			t.Fatalf("%d unsigned and %d foreign requests in %v", unsigned.Load(), foreign.Load(), patience)
		}
		time.Sleep(time.Millisecond)
	}
	got := stop()
	if most := int64(450*time.Since(began).Seconds()) + 1; got.Refused > most || got.Refused < 40 || got.Accepted+got.Busy > 0 {
		t.Errorf("got %v, want at most %d refused and nothing else", got, most)
	}
}
