package publish_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A refuser takes the place of a broker and refuses all connections.
type refuser struct {
	listener net.Listener
	attempts atomic.Int32
}

// refuse starts a refuser. It answers each connection with a greeting, if there is one,
// and closes it.
func refuse(t *testing.T, address, greeting string) *refuser {
	t.Helper()
	r := &refuser{}
	embeddedtest.Await(t, "the broker's address is free", func() (ok bool) {
		var err error
		r.listener, err = net.Listen("tcp", address)
		return err == nil
	})
	t.Cleanup(func() { r.listener.Close() })
	go func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.attempts.Add(1)
			go func() {
				defer conn.Close()
				if greeting != "" {
					_, _ = io.WriteString(conn, greeting)
					_, _ = io.Copy(io.Discard, conn) // until the client has read it
				}
			}()
		}
	}()
	return r
}

// A broker that is away, or refuses the connection, for long does not fill the log, and
// the log shows when it is back.
func TestBrokerIsAwayForLong(t *testing.T) {
	t.Parallel()
	var log embeddedtest.Log
	cfg := config("nats://" + embeddedtest.FreeAddress(t))
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	count := func(text string) int { return strings.Count(log.String(), text) }

	const attempts = 5
	address := strings.TrimPrefix(cfg.URL, "nats://")
	away := refuse(t, address, "")
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	opened := make(chan *publish.Publisher, 1)
	go func() {
		p, err := publish.Open(ctx, cfg)
		if err != nil {
			t.Error(err)
		}
		opened <- p
	}()
	embeddedtest.Await(t, "several attempts", func() bool { return away.attempts.Load() >= attempts })
	if n := count("broker is not ready; waiting for it"); n == 0 || n >= attempts {
		t.Errorf("%d warnings", n)
	}
	away.listener.Close()
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: address})
	p := embeddedtest.Receive(t, "a publisher", opened)
	if p == nil {
		t.FailNow()
	}
	defer p.Close()
	if n := count("broker is ready"); n != 1 {
		t.Errorf("the broker is reported %d times", n)
	}

	broker.Stop()
	denied := refuse(t, address, `INFO {"max_payload":1048576,"headers":true}`+"\r\n-ERR 'Authorization Violation'\r\n")
	embeddedtest.Await(t, "several attempts to reconnect", func() bool { return denied.attempts.Load() >= attempts })
	if n := count("broker reported an error"); n != 1 {
		t.Errorf("the error is logged %d times\n%s", n, log.String())
	}
}
