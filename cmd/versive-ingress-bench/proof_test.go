package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
)

// Each kind of error is planted in a real stream and reported.
func TestCompare(t *testing.T) {
	t.Parallel()
	js := newStream(t, 100*time.Millisecond) // the least that the server accepts
	publish := func(id string) bool {
		ack, err := js.Publish(t.Context(), "bench."+id, nil, jetstream.WithMsgID(id))
		if err != nil {
			t.Fatal(err)
		}
		return !ack.Duplicate
	}
	expect := func(events []*event, want string) { // the error, if not empty
		t.Helper()
		stored, err := readIDs(t.Context(), js, "BENCH")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := compare(events, stored); (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}

	events := newSource(newSecret(), 2<<10).next(100)
	expect(events, "")
	for _, e := range events[:98] {
		e.accepted = true
		publish(e.id)
	}
	expect(events, "")
	publish(events[98].id)
	expect(events, "98 events answered 2xx, 0 of them missing; 0 stored more than once; 1 stored but never answered 2xx")
	events[98].accepted, events[99].accepted = true, true
	expect(events, "100 events answered 2xx, 1 of them missing; 0 stored more than once; 0 stored but never answered 2xx")
	embeddedtest.Await(t, "the duplicate window ends", func() bool { return publish(events[0].id) })
	expect(events, "100 events answered 2xx, 1 of them missing; 1 stored more than once; 0 stored but never answered 2xx")

	if _, err := readIDs(t.Context(), js, "OTHER"); err == nil {
		t.Error("no error for a stream that does not exist")
	}
}

// A service that accepts events without storing them is reported. To one that stores
// events without accepting them, or fails sometimes, they are resent, as by the real
// sender, until both sides agree.
func TestSettleAndProve(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(n int64) (stores bool, status int) // to the nth request
		err    string                                  // none if empty
	}{
		"honest":                  {func(int64) (bool, int) { return true, 204 }, ""},
		"accepted and not stored": {func(n int64) (bool, int) { return n%50 != 0, 204 }, "missing"},
		"failed and not stored": {func(n int64) (bool, int) {
			if n%10 == 0 {
				return false, 503
			}
			return true, 204
		}, ""},
		"failed but stored": {func(n int64) (bool, int) {
			if n%10 == 0 {
				return true, 503
			}
			return true, 204
		}, ""},
		"rejects the last": {func(n int64) (bool, int) {
			if n >= 1000 {
				return false, 401
			}
			return true, 204
		}, "still not accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := newStream(t, 0)
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				stores, status := c.answer(n.Add(1))
				if stores {
					id := r.Header.Get("svix-id")
					if _, err := js.Publish(r.Context(), "bench."+id, nil, jetstream.WithMsgID(id)); err != nil {
						t.Error(err)
					}
				}
				w.WriteHeader(status)
			}))
			defer server.Close()
			sys := &system{ctx: t.Context(), address: server.Listener.Addr().String(), js: js, stream: "BENCH"}
			s := newSource(newSecret(), 2<<10)
			if _, err := sys.send(load{senders: sys.senders(4), batch: 1, duration: embeddedtest.Timeout}, s, 1000, 0); err != nil {
				t.Fatal(err)
			}
			accepted, err := sys.prove(s)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || err == nil && accepted != 1000 {
				t.Errorf("%v accepted, %v; want 1000 or an error with %q", accepted, err, c.err)
			}
		})
	}
}
