package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A service that says too much is found out; one that says too little is asked
// again until both sides agree, as the real sender does.
func TestSettleAndProve(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(n int64, store func()) int // status of the nth request
		want   proof
		words  string // of the error; none if empty
	}{
		"honest": {
			func(_ int64, store func()) int { store(); return 204 },
			proof{Accepted: 100, Stored: 100},
			"",
		},
		"accepted and not stored": {
			func(n int64, store func()) int {
				if n%50 != 0 {
					store()
				}
				return 204
			},
			proof{Accepted: 100, Stored: 98, Missing: 2},
			"missing 2",
		},
		"failed and not stored": {
			func(n int64, store func()) int {
				if n%10 == 0 {
					return 503
				}
				store()
				return 204
			},
			proof{Accepted: 100, Stored: 100},
			"",
		},
		"failed but stored": {
			func(n int64, store func()) int {
				store()
				if n%10 == 0 {
					return 503
				}
				return 204
			},
			proof{Accepted: 100, Stored: 100},
			"",
		},
		"refuses one for ever": {
			func(n int64, store func()) int {
				if n >= 100 {
					return 401
				}
				store()
				return 204
			},
			proof{},
			"still not accepted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := newStream(t, jetstream.StreamConfig{Name: bareStream, Subjects: []string{"bare.>"}})
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.answer(n.Add(1), func() {
					id := r.Header.Get("svix-id")
					if _, err := js.Publish(r.Context(), "bare."+id, nil, jetstream.WithMsgID(id)); err != nil {
						t.Error(err)
					}
				}))
			}))
			defer server.Close()
			sys := &system{
				service: &process{}, // there is one, in this process
				address: server.Listener.Addr().String(),
				nats:    js.Conn().ConnectedUrl(),
				stream:  bareStream,
			}
			s := newTestSource(t)
			senders, closeSenders := posts(sys.address, 4, time.Now().Add(patience))
			defer closeSenders()
			if _, err := sys.send(t.Context(), load{senders: senders, batch: 1, duration: time.Minute}, s, 100, 0); err != nil {
				t.Fatal(err)
			}
			got, err := sys.settleAndProve(t.Context(), s.events)
			if got != c.want || (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %+v, %v; want %+v and an error with %q", got, err, c.want, c.words)
			}
		})
	}
}
