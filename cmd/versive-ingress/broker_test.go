package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// The broker stops and restarts; the ingress keeps running, reports it, and loses nothing.
func TestBrokerLostAndBack(t *testing.T) {
	t.Parallel()
	address, dir := embeddedtest.FreeAddress(t), t.TempDir()
	config := embedded.Config{Dir: dir, Listen: address}
	broker := embeddedtest.StartBroker(t, config)
	s := withBroker(newSettings(t), address)
	s.PublishTimeout = 500 * time.Millisecond
	run(t, s)

	l := startLoad(t, s, 8, 10*time.Millisecond)
	for range 2 {
		l.awaitAccepted(t, 100)
		broker.Stop()
		_, before, _ := l.counts()
		embeddedtest.Await(t, "readyz 503", func() bool { return readyz(s) == http.StatusServiceUnavailable })
		embeddedtest.Await(t, "webhooks refused", func() bool { _, now, _ := l.counts(); return now > before })
		if status, _ := get("http://" + s.AdminListen + "/livez"); status != http.StatusOK {
			t.Errorf("livez: %d", status)
		}
		broker = embeddedtest.StartBroker(t, config)
		embeddedtest.Await(t, "readyz 200", func() bool { return readyz(s) == http.StatusOK })
	}
	l.awaitAccepted(t, 100)
	l.stop()
	l.check(t)
	if _, _, lost := l.counts(); lost > 0 {
		t.Errorf("%d requests had no answer", lost)
	}
	requireStored(t, embeddedtest.Connect(t, broker.URL()), s.Stream, l.accepted)
}

func TestStartBeforeTheBroker(t *testing.T) {
	t.Parallel()
	address := embeddedtest.FreeAddress(t)
	s := withBroker(newSettings(t), address)
	started := make(chan *system)
	go func() {
		defer close(started)
		if sys, err := tryRun(t, s); err != nil {
			t.Errorf("start: %v", err)
		} else {
			started <- sys
		}
	}()
	livez := func() int { status, _ := get("http://" + s.AdminListen + "/livez"); return status }
	embeddedtest.Await(t, "livez 200", func() bool { return livez() == http.StatusOK })
	if status := readyz(s); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", status)
	}
	var response *http.Response
	embeddedtest.Await(t, "an answer", func() (ok bool) {
		var err error
		response, err = sender.Client.Do(signed("http://"+s.Listen+s.Path, s.Secrets[0], "msg_early", sample))
		return err == nil
	})
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("webhook: %s, Retry-After %q", response.Status, response.Header.Get("Retry-After"))
	}

	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: address})
	sys := embeddedtest.Receive(t, "the ingress starts", started)
	if sys == nil {
		return
	}
	if a := sys.post(t, "msg_early", sample); a.Outcome != "stored" {
		t.Errorf("got %v", a)
	}
	embeddedtest.Await(t, "readyz 200", func() bool { return readyz(s) == http.StatusOK })
	requireStored(t, embeddedtest.Connect(t, broker.URL()), s.Stream, map[string]uint64{"msg_early": 1})
}

// A stream that cannot hold the promise, or a body that fits no message,
// stops the start with the remedy.
func TestStartRefusesTheBroker(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		payload config.Size                   // 0 is enough
		stream  func(*jetstream.StreamConfig) // what somebody has made of ours
		change  func(*config.Settings)
		want    []string
	}{
		"memory": {
			stream: func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
			want:   []string{"stream VERSIVE: ", "memory", "recreate"},
		},
		"limit that discards": {
			stream: func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
			want:   []string{"stream VERSIVE: ", "nats --server 'nats://127.0.0.1:", " stream edit VERSIVE --discard new"},
		},
		"work queue": {
			stream: func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
			want:   []string{"stream VERSIVE: ", "retention"},
		},
		"subjects of another": {
			stream: func(c *jetstream.StreamConfig) { c.Name = "OTHER" },
			want:   []string{"stream VERSIVE: ", "overlap"},
		},
		"replicas": {
			change: func(s *config.Settings) { s.Replicas = 3 },
			want:   []string{"stream VERSIVE: ", "replicas"},
		},
		"body": {
			payload: 1 << 20,
			change:  func(s *config.Settings) { s.MaxBody = 4 << 20 },
			want:    []string{"INGRESS_MAX_BODY=4MiB", "max_payload", "1MiB", "896KiB"},
		},
		"any body": {
			payload: 100 << 10,
			want:    []string{"max_payload", "100KiB"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := embeddedtest.FreeAddress(t)
			broker := embeddedtest.StartBroker(t, embedded.Config{Listen: address, MaxPayload: int64(c.payload)})
			if c.stream != nil {
				config := jetstream.StreamConfig{Name: "VERSIVE", Subjects: []string{"versive.>"}}
				c.stream(&config)
				if _, err := embeddedtest.Connect(t, broker.URL()).CreateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
			}
			s := withBroker(newSettings(t), address)
			if c.change != nil {
				c.change(&s)
			}
			_, err := tryRun(t, s)
			for _, part := range c.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the error lacks %q: %v", part, err)
				}
			}
		})
	}
}

// Where INGRESS_MAX_BODY is not set, the broker sets the limit, and a warning
// is logged.
func TestBodyLimitedByTheBroker(t *testing.T) {
	t.Parallel()
	address := embeddedtest.FreeAddress(t)
	embeddedtest.StartBroker(t, embedded.Config{Listen: address, MaxPayload: 1 << 20})
	sys := run(t, withBroker(newSettings(t), address))
	if log := sys.log.String(); !strings.Contains(log, `"level":"WARN"`) || !strings.Contains(log, `"max_body":"896KiB"`) {
		t.Errorf("the log has no warning with the limit:\n%s", log)
	}
	const limit = 896 << 10
	largest := append(sample[:len(sample):len(sample)], strings.Repeat(" ", limit-len(sample))...)
	if a := sys.post(t, "msg_largest", largest); a.Outcome != "stored" {
		t.Errorf("a body at the limit: %v", a)
	}
	if a := sys.post(t, "msg_raw", []byte(strings.Repeat("x", limit))); a.Status != http.StatusAccepted {
		t.Errorf("a body at the limit for the quarantine: %v", a)
	}
	if a := sys.post(t, "msg_over", append(largest, ' ')); a.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit: %v", a)
	}
}

// A full stream, or a full store, rejects events with the reason; accepted events
// stay. When there is room again, events are stored.
func TestFull(t *testing.T) {
	t.Parallel()
	body := func(id string) []byte { // of about 16 KiB
		return []byte(strings.Replace(string(interview(id)), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", 3000)+`"`, 1))
	}
	for name, c := range map[string]struct {
		store config.Size
		limit func(context.Context, jetstream.JetStream) error
		room  func(context.Context, jetstream.JetStream) error
	}{
		"stream": {
			0,
			func(ctx context.Context, js jetstream.JetStream) error { return setMaxBytes(ctx, js, 256<<10) },
			func(ctx context.Context, js jetstream.JetStream) error { return setMaxBytes(ctx, js, 1<<20) },
		},
		"store": {
			256 << 10,
			func(context.Context, jetstream.JetStream) error { return nil },
			func(ctx context.Context, js jetstream.JetStream) error {
				// The operator does not need these any more.
				stream, err := js.Stream(ctx, "VERSIVE")
				if err != nil {
					return err
				}
				return stream.Purge(ctx, jetstream.WithPurgeKeep(2))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			s.MaxStore = c.store
			sys := run(t, s)
			js := embeddedtest.Connect(t, sys.BrokerURL())
			if err := c.limit(t.Context(), js); err != nil {
				t.Fatal(err)
			}

			accepted := make(map[string]uint64)
			var a sender.Answer
			for n := 1; len(accepted) < 100; n++ {
				id := fmt.Sprint("msg_", n)
				if a = sys.post(t, id, body(id)); !a.Accepted() {
					break
				}
				accepted[id] = a.Sequence
			}
			if a.Status != http.StatusServiceUnavailable || len(accepted) == 0 {
				t.Fatalf("after %d webhooks: %v", len(accepted), a)
			}
			if status, why := get("http://" + s.AdminListen + "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, "full") {
				t.Errorf("readyz: %d %s", status, why)
			}
			requireStored(t, js, s.Stream, accepted)
			if a := sys.post(t, "msg_1", body("msg_1")); a.Outcome != "duplicate" || a.Sequence != 1 {
				t.Errorf("what is stored, again: %v", a)
			}

			if c.store > 0 { // no failure to remember, and red all the same
				sys.Stop()
				sys = run(t, s)
				js = embeddedtest.Connect(t, sys.BrokerURL())
				if status, why := get("http://" + s.AdminListen + "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, "store is full") {
					t.Errorf("readyz after a restart: %d %s", status, why)
				}
				requireStored(t, js, s.Stream, accepted)
			}

			if err := c.room(t.Context(), js); err != nil {
				t.Fatal(err)
			}
			embeddedtest.Await(t, "stored again", func() bool { return sys.post(t, "msg_last", body("msg_last")).Accepted() })
			embeddedtest.Await(t, "readyz 200", func() bool { return readyz(s) == http.StatusOK })
		})
	}
}

func setMaxBytes(ctx context.Context, js jetstream.JetStream, size int64) error {
	stream, err := js.Stream(ctx, "VERSIVE")
	if err != nil {
		return err
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = size
	_, err = js.UpdateStream(ctx, config)
	return err
}
