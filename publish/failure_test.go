package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A proxy between a publisher and its broker loses requests or answers on demand.
type proxy struct {
	listener net.Listener
	target   string
	// loseRequests and loseAnswers drop the bytes of a direction, as in a network
	// partition. freeze, while locked, blocks both directions.
	loseRequests, loseAnswers atomic.Bool
	freeze                    sync.RWMutex

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func startProxy(t *testing.T, broker *embedded.Broker) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: broker.URL()[len("nats://"):]}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, broker)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(broker, client, &p.loseRequests) })
		p.wg.Go(func() { p.copy(client, broker, &p.loseAnswers) })
	}
}

func (p *proxy) copy(to io.WriteCloser, from io.ReadCloser, lose *atomic.Bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.freeze.RLock()
		if !lose.Load() {
			_, err = to.Write(buf[:n])
		}
		p.freeze.RUnlock()
		if err != nil {
			return
		}
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	e, ok := errors.AsType[*publish.Error](err)
	if !ok {
		t.Fatalf("got error %v, want a publish.Error", err)
	}
	if e.Reason() != want {
		t.Errorf("got reason %q (%v), want %q", e.Reason(), err, want)
	}
}

// After a lost request or answer the caller gets the same error, whether or not the
// message is stored. Publishing again stores it once.
func TestPublishFailure(t *testing.T) {
	for _, test := range []struct {
		name   string
		fail   func(*proxy)
		reason string
		stored bool
	}{
		{"request lost", func(p *proxy) { p.loseRequests.Store(true) }, "no_answer", false},
		{"answer lost", func(p *proxy) { p.loseAnswers.Store(true) }, "no_answer", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			proxy := startProxy(t, broker)
			cfg := config(proxy.url())
			registry := prometheus.NewRegistry()
			cfg.Timeout, cfg.Metrics = 500*time.Millisecond, registry
			p := openPublisher(t, cfg)
			m := event(t, "msg_1")
			failed := func(stream string) bool {
				return gather(t, registry)["stream_last_failure_timestamp_seconds "+stream] > 0
			}

			test.fail(proxy)
			_, err := p.Publish(t.Context(), m)
			wantReason(t, err, test.reason)
			if !failed("VERSIVE") || failed("VERSIVE_QUARANTINE") {
				t.Error("the metrics do not show which stream lacks a message")
			}
			if p.Ready() == nil {
				t.Error("ready, although the last publish failed")
			}
			js := embeddedtest.Connect(t, broker.URL())
			embeddedtest.Await(t, fmt.Sprint("stored: ", test.stored), func() bool { return len(stored(t, js, "VERSIVE")) == 1 == test.stored })

			proxy.loseRequests.Store(false)
			proxy.loseAnswers.Store(false)
			proxy.cut() // as both ends eventually would
			var receipt schema.Receipt
			late := false // an attempt timed out on a slow machine and may have stored it
			embeddedtest.Await(t, "publishing again succeeds", func() bool {
				receipt, err = p.Publish(t.Context(), m)
				late = late || errors.Is(err, context.DeadlineExceeded)
				return err == nil
			})
			if want := (schema.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: test.stored}); receipt != want && !late {
				t.Errorf("got %+v, want %+v", receipt, want)
			}
			if failed("VERSIVE") {
				t.Error("the metrics show a failure after the message was stored")
			}
			if n := len(stored(t, js, "VERSIVE")); n != 1 {
				t.Errorf("the stream holds %d messages, want 1", n)
			}
			embeddedtest.Await(t, "ready after a publish", func() bool { // a check of the streams may have failed meanwhile
				err := p.Ready()
				if err != nil && strings.Contains(err.Error(), "the last publish failed") {
					t.Fatal(err)
				}
				return err == nil
			})
		})
	}
}

// A broker that neither answers nor reads must not block a caller for longer than the
// timeout, even with a large message.
func TestPublishToFrozenBroker(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	proxy := startProxy(t, broker)
	cfg := config(proxy.url())
	cfg.Timeout = 3 * time.Second
	p := openPublisher(t, cfg)

	proxy.freeze.Lock()
	defer proxy.freeze.Unlock()
	var wg sync.WaitGroup
	for i := range 8 {
		m := schema.Quarantine(fmt.Sprintf("msg_%d", i), make([]byte, 8<<20), &schema.Error{Reason: schema.Malformed}, nil)
		wg.Go(func() {
			started := time.Now()
			_, err := p.Publish(t.Context(), m)
			if e, ok := errors.AsType[*publish.Error](err); !ok || e.Reason() != "no_answer" && e.Reason() != "unreachable" {
				t.Errorf("published to a frozen broker: %v", err)
			}
			// nats.go closes a connection that does not answer after 15 s.
			if took := time.Since(started); took > cfg.Timeout+8*time.Second {
				t.Errorf("took %v with a timeout of %v", took, cfg.Timeout)
			}
		})
	}
	wg.Wait()
	embeddedtest.Await(t, "not ready", func() bool { return p.Ready() != nil })
}

func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	brokerCfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, brokerCfg)
	cfg := config(broker.URL())
	cfg.Timeout = 20 * time.Second
	p := openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}

	broker.Stop()
	embeddedtest.Await(t, "not ready", func() bool { return p.Ready() != nil })
	started := time.Now()
	_, err := p.Publish(t.Context(), event(t, "msg_2"))
	wantReason(t, err, "unreachable")
	if took := time.Since(started); took > cfg.Timeout/2 {
		t.Errorf("took %v to notice that there is no broker", took)
	}

	broker = embeddedtest.StartBroker(t, brokerCfg)
	embeddedtest.Await(t, "published again", func() bool {
		_, err := p.Publish(t.Context(), event(t, "msg_2"))
		return err == nil
	})
	embeddedtest.Await(t, "ready", func() bool { return p.Ready() == nil })
	if ids := stored(t, embeddedtest.Connect(t, broker.URL()), "VERSIVE"); len(ids) != 2 {
		t.Errorf("the stream holds %v", ids)
	}
}

func TestFullStream(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "VERSIVE", Subjects: []string{"versive.>"}, MaxMsgs: 3, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := openPublisher(t, config(broker.URL()))
	for i := range 3 {
		if _, err := p.Publish(t.Context(), event(t, fmt.Sprintf("msg_%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, err := p.Publish(t.Context(), event(t, "msg_3"))
		wantReason(t, err, "full")
	}
	embeddedtest.Await(t, "not ready", func() bool { return p.Ready() != nil })
	if got, err := p.Publish(t.Context(), event(t, "msg_0")); err != nil || !got.Duplicate {
		t.Errorf("a resend to a full stream: got %+v, %v; want a duplicate", got, err)
	}
	if ids := stored(t, js, "VERSIVE"); len(ids) != 3 || ids[0] != "msg_0" {
		t.Errorf("the stream holds %v", ids)
	}
}

func TestStreamIsDeleted(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	cfg := config(broker.URL())
	cfg.Timeout = 10 * time.Second
	p := openPublisher(t, cfg)
	if err := js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "published into a new stream", func() bool {
		_, err := p.Publish(t.Context(), event(t, "msg_1"))
		return err == nil
	})
}

// After some errors of the broker, nats.go closes the connection permanently. Closed
// notifies the program, so that it can restart.
func TestConnectionIsClosed(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, embeddedtest.StartBroker(t, embedded.Config{}))
	p := openPublisher(t, config(proxy.url()))
	proxy.mu.Lock()
	_, err := proxy.conns[len(proxy.conns)-2].Write([]byte("-ERR 'Maximum Payload Violation'\r\n"))
	proxy.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Closed():
	case <-time.After(embeddedtest.Timeout):
		t.Fatal("not closed")
	}
	_, err = p.Publish(t.Context(), event(t, "msg_1"))
	wantReason(t, err, "unreachable")
	embeddedtest.Await(t, "not ready", func() bool { return p.Ready() != nil })
}
