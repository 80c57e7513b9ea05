package publish_test

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// losingDialer connects to a broker. It loses what the client writes with its next
// requests for messages of the event stream, as many as its value.
type losingDialer struct{ atomic.Int32 }

func (d *losingDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return losingConn{conn, d}, err
}

type losingConn struct {
	net.Conn
	dialer *losingDialer
}

func (c losingConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("CONSUMER.MSG.NEXT.VERSIVE.")) && c.dialer.Add(-1) >= 0 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// A message that was erased is not reported as lost if the broker does not answer while
// its tombstone is searched.
func TestExplainWithoutAnswer(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	dialer, log := &losingDialer{}, &embeddedtest.Log{}
	cfg := config(broker.URL())
	cfg.MarksDir, cfg.Logger = t.TempDir(), slog.New(slog.NewTextHandler(log, nil))
	cfg.Options = []nats.Option{nats.SetCustomDialer(dialer)}
	p := openPublisher(t, cfg)
	m := event(t, "msg_1")
	receipt, err := p.Publish(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	dialer.Store(2) // the search looks twice
	eraser := publish.Eraser{JetStream: embeddedtest.Connect(t, broker.URL()), Stream: "VERSIVE"}
	if err := eraser.Erase(t.Context(), publish.Copy{Subject: m.Subject("versive"), Sequence: receipt.Sequence}); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the tombstone is searched again", func() bool {
		if strings.Contains(log.String(), "stream has lost") {
			t.Fatal(log.String())
		}
		return dialer.Load() < 0
	})
	p.Close()
	if losses, _, err := publish.ReadLosses(cfg.MarksDir); err != nil || len(losses) > 0 {
		t.Errorf("reported %v (%v)", losses, err)
	}
}
