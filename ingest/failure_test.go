package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// namedError is an error that provides the reason for metrics.
type namedError struct{ reason string }

func (e namedError) Error() string  { return "the broker is " + e.reason }
func (e namedError) Reason() string { return e.reason }

// After any failure the message may or may not be stored. The answer is the same in
// both cases; only that to the resend differs.
func TestFailure(t *testing.T) {
	t.Parallel()
	for _, body := range []struct{ name, text, fresh, resent string }{
		{"event", event(""), "200 stored", "200 duplicate"},
		{"quarantined", "{", "202 quarantined malformed", "202 quarantined malformed"},
	} {
		for _, failure := range []struct {
			name   string
			err    error
			stored bool
			want   string
		}{
			{"before it is stored", namedError{"unreachable"}, false, "503 unavailable unreachable"},
			{"after it is stored", fmt.Errorf("publishing event: %w", namedError{"no_answer"}), true, "503 unavailable no_answer"},
			{"without a name", errors.New("something else"), false, "503 unavailable publishing"},
			{"as the context ends", context.DeadlineExceeded, true, "503 unavailable publishing"},
		} {
			t.Run(body.name+" "+failure.name, func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				failing := true
				r := newHarness(t, fake{func(ctx context.Context, m schema.Message) (schema.Receipt, error) {
					if !failing {
						return s.Publish(ctx, m)
					}
					if failure.stored {
						if _, err := s.Publish(ctx, m); err != nil {
							t.Error(err)
						}
					}
					return schema.Receipt{}, failure.err
				}})
				request := signed(t, "msg_1", body.text)
				for range 2 {
					if got, _ := r.post(t, request); got != failure.want {
						t.Errorf("got %q, want %q", got, failure.want)
					}
				}
				var count uint64
				if failure.stored {
					count = 1
				}
				if got := s.state(t); got.events+got.quarantined != count {
					t.Errorf("the streams hold %+v, want %d in all", got, count)
				}

				failing = false
				want := body.fresh
				if failure.stored {
					want = body.resent
				}
				if got, _ := r.post(t, request); got != want {
					t.Errorf("the resend got %q, want %q", got, want)
				}
				if got := s.state(t); got.events+got.quarantined != 1 || got.lastEvent+got.lastQuarantined != 1 {
					t.Errorf("the streams hold %+v, want one message", got)
				}
			})
		}
	}
}

// A failure is logged with its cause and the message id.
func TestFailureIsLogged(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
		return schema.Receipt{}, namedError{"full"}
	}})
	exchange(t, r.address, signed(t, "msg_1", event("")))
	lines, _ := r.logs.take(t)
	if len(lines) != 1 || lines[0].ID != "msg_1" || lines[0].Error != "the broker is full" {
		t.Errorf("logged %+v", lines)
	}
}

// A full stream rejects new events only.
func TestFullStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	row{"", signed(t, "msg_1", event("")), "200 stored"}.check(t, r, s)
	limit := func(messages int64) {
		t.Helper()
		stream, err := s.js.Stream(t.Context(), "VERSIVE")
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		cfg.MaxMsgs, cfg.Discard = messages, jetstream.DiscardNew
		if _, err := s.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	row{"", signed(t, "msg_2", event("")), "503 unavailable full"}.check(t, r, s)
	row{"", signed(t, "msg_1", event("")), "200 duplicate"}.check(t, r, s)
	row{"", signed(t, "msg_3", "{"), "202 quarantined malformed"}.check(t, r, s)
	limit(-1)
	row{"", signed(t, "msg_2", event("")), "200 stored"}.check(t, r, s)
}

// A sender that disconnects while its event is being stored does not stop it.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	entered, once := make(chan struct{}), sync.Once{}
	r := newHarness(t, fake{func(ctx context.Context, m schema.Message) (schema.Receipt, error) {
		once.Do(func() {
			close(entered)
			<-ctx.Done() // the server has noticed the disconnect
		})
		return s.Publish(ctx, m)
	}})
	request := signed(t, "msg_1", event(""))
	conn, _ := dial(t, r.address)
	write(t, conn, request.head()+request.body)
	embeddedtest.Receive(t, "it is published", entered)
	conn.Close()
	embeddedtest.Await(t, "the event is stored", func() bool { return s.state(t).events == 1 })
	var logged string
	embeddedtest.Await(t, "the request is finished", func() bool {
		_, text := r.logs.take(t)
		logged += text
		return strings.Contains(logged, `"outcome":"stored"`)
	})
	row{"", request, "200 duplicate"}.check(t, r, s)
}

// held is a publisher that blocks every message until release is closed.
func held(release <-chan struct{}, entered chan<- string) fake {
	var sequence atomic.Uint64
	return fake{func(_ context.Context, m schema.Message) (schema.Receipt, error) {
		entered <- m.ID
		<-release
		return schema.Receipt{Stream: "VERSIVE", Sequence: sequence.Add(1)}, nil
	}}
}

// start sends a request whose answer is read later.
func start(t *testing.T, r *harness, request request) func() answer {
	t.Helper()
	conn, from := dial(t, r.address)
	write(t, conn, request.head())
	go func() { _, _ = io.WriteString(conn, request.body) }()
	return func() answer { return readAnswer(t, from, request) }
}

// After Drain, new requests are rejected and requests in flight are completed.
func TestDrain(t *testing.T) {
	t.Parallel()
	release, entered := make(chan struct{}), make(chan string, 1)
	r := newHarness(t, held(release, entered))
	finish := sync.OnceFunc(func() { close(release) })
	defer finish()
	before := start(t, r, signed(t, "msg_1", event("")))
	embeddedtest.Receive(t, "it is published", entered)

	r.handler.Drain()
	for _, request := range []request{
		signed(t, "msg_2", event("")), signed(t, "msg_3", "{"), signed(t, "msg_4", event("")).without("Svix-Id"),
	} {
		a := exchange(t, r.address, request)
		lines, _ := r.logs.take(t)
		if len(lines) != 1 || a.summary(lines[0]) != "503 unavailable shutting_down" {
			t.Fatalf("got %d, logged %+v", a.status, lines)
		}
		checkAnswer(t, a, lines[0], request)
	}
	finish()
	if a := before(); a.status != 200 {
		t.Errorf("the request in progress got %d %s", a.status, a.body)
	}
}

// Large bodies may use three quarters of the budget, small ones all of it.
func TestBudget(t *testing.T) {
	t.Parallel()
	release, entered := make(chan struct{}), make(chan string, 100)
	r := newHarness(t, held(release, entered))
	finish := sync.OnceFunc(func() { close(release) })
	defer finish()
	const small = 64 << 10
	rejected := func(what string, request request) {
		t.Helper()
		a := exchange(t, r.address, request)
		lines, _ := r.logs.take(t)
		if len(lines) != 1 || a.summary(lines[0]) != "503 unavailable too_much_in_flight" {
			t.Fatalf("%s: got %d %s, logged %+v", what, a.status, a.body, lines)
		}
		checkAnswer(t, a, lines[0], request)
	}
	var answers []func() answer
	hold := func(request request) {
		t.Helper()
		answers = append(answers, start(t, r, request))
		if id := embeddedtest.Receive(t, "it is published", entered); id != request.id {
			t.Fatalf("%s is published, want %s", id, request.id)
		}
	}

	for i := range maxInflight / 4 * 3 / maxBody {
		large := signed(t, "msg_large_"+itoa(i), eventOf(maxBody))
		switch i {
		case 0:
			hold(large)
			continue
		case 1: // its length is not announced
			large = large.chunked()
		}
		answers = append(answers, start(t, r, large)) // waits for its turn
		embeddedtest.Await(t, "it is charged", func() bool { return r.inflight(t) == float64((i+1)*maxBody) })
	}
	rejected("one more large body", signed(t, "msg_rejected", eventOf(maxBody)))
	rejected("a body just over the small ones", signed(t, "msg_rejected", eventOf(small+1)))
	rejected("one of unknown length", signed(t, "msg_rejected", eventOf(small+1)).chunked())
	for i := range maxInflight / 4 / small {
		request := signed(t, "msg_small_"+itoa(i), eventOf(small))
		if i == 1 { // its length is not announced
			request = signed(t, "msg_small_"+itoa(i), eventOf(small-1)).chunked()
		}
		hold(request)
	}
	if got := r.inflight(t); got != maxInflight {
		t.Errorf("%v bytes are in flight, want all %d", got, maxInflight)
	}
	rejected("one more byte", signed(t, "msg_rejected", "{"))
	// An empty body is charged nothing.
	hold(signed(t, "msg_empty", ""))

	finish()
	for _, read := range answers {
		if a := read(); a.status/100 != 2 {
			t.Errorf("a blocked request got %d %s", a.status, a.body)
		}
	}
	embeddedtest.Await(t, "the budget is empty", func() bool { return r.inflight(t) == 0 })
	for len(entered) > 0 { // the large ones that waited for their turn
		<-entered
	}
	hold(signed(t, "msg_after", eventOf(maxBody)))
	if a := answers[len(answers)-1](); a.status != 200 {
		t.Errorf("afterwards: got %d %s", a.status, a.body)
	}
}

// Large bodies are processed in turns, and a rejected one passes its turn on.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	release, entered := make(chan struct{}), make(chan string, 100)
	close(release)
	const size = 256 << 10
	r := newHarness(t, held(release, entered), func(c *ingest.Config) {
		c.MaxBody, c.MaxInflight = size, 16*size
	})
	good := signed(t, "msg_1", eventOf(size))
	forged := good.with("Svix-Id", "msg_2")
	for round := range 3 {
		var reads []func() answer
		for range 4 {
			reads = append(reads, start(t, r, good), start(t, r, forged))
		}
		for i, read := range reads {
			if a, want := read(), [2]int{200, 401}[i%2]; a.status != want {
				t.Errorf("round %d: got %d %s, want %d", round, a.status, a.body, want)
			}
		}
	}
}

// A large body that does not get its turn in time is answered 503. Small ones do
// not wait for a turn.
func TestLargeBodyWaits(t *testing.T) {
	t.Parallel()
	release, entered := make(chan struct{}), make(chan string, 100)
	r := newHarness(t, held(release, entered))
	finish := sync.OnceFunc(func() { close(release) })
	defer finish()
	first := start(t, r, signed(t, "msg_1", eventOf(maxBody)))
	embeddedtest.Receive(t, "it is published", entered)
	second := start(t, r, signed(t, "msg_2", eventOf(maxBody)))
	small := start(t, r, signed(t, "msg_3", event("")))
	if id := embeddedtest.Receive(t, "it is published", entered); id != "msg_3" {
		t.Errorf("%s is published, want msg_3", id)
	}
	if a := second(); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("the one that waits got %d with %v", a.status, a.header)
	}
	finish()
	for _, read := range []func() answer{first, small} {
		if a := read(); a.status != 200 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
}

// A panic is answered 503, and its value is neither answered nor logged.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
		panic("a transcript")
	}})
	got, a := r.post(t, signed(t, "msg_1", event("")))
	if got != "503 unavailable panic" || a.header.Get("Retry-After") == "" {
		t.Errorf("got %q with %v", got, a.header)
	}
}
