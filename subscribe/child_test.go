package subscribe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A consumer in a process of its own can be killed. Its configuration is in its
// environment.
const (
	childEnv      = "SUBSCRIBE_TEST_CHILD" // its kind
	childURLEnv   = "SUBSCRIBE_TEST_URL"   // of the broker
	childFileEnv  = "SUBSCRIBE_TEST_FILE"  // the file in which it notes its work
	childCrashEnv = "SUBSCRIBE_TEST_CRASH" // "point:n": it kills itself when it gets there for the nth time
)

// childAckWait is how long the broker waits for a child that was killed.
const childAckWait = 400 * time.Millisecond

// fatalEvent is the event that ends a child of the kind fatal.
const fatalEvent = "msg_4"

// The kinds of consumers: one commits the work and the id in one transaction; one
// cannot undo its work; one exits when it handles one of the events; one does not
// use package subscribe.
var childKinds = map[string]func(ctx context.Context, js jetstream.JetStream, file string, c *crash) error{
	"transaction": func(ctx context.Context, js jetstream.JetStream, file string, c *crash) error {
		r, err := openReports(file)
		if err != nil {
			return err
		}
		defer r.db.Close()
		return subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: "transaction", AckWait: childAckWait, Concurrency: 4,
			Event: subscribe.Typed(func(ctx context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
				c.pass("delivered")
				err := r.event(ctx, data, m)
				c.pass("worked")
				return err
			}),
			Erasure: r.erasure,
		})
	},
	"plain": func(ctx context.Context, js jetstream.JetStream, file string, c *crash) error {
		return subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: "plain", AckWait: childAckWait, Concurrency: 4,
			Event: func(_ context.Context, event schema.Event, _ subscribe.Message) error {
				c.pass("delivered")
				err := appendLine(file, event.ID)
				c.pass("worked")
				return err
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	},
	"fatal": func(ctx context.Context, js jetstream.JetStream, file string, _ *crash) error {
		return subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: "fatal", AckWait: childAckWait, Concurrency: 8, Attempts: 2,
			Event: func(_ context.Context, event schema.Event, _ subscribe.Message) error {
				if event.ID == fatalEvent {
					os.Exit(3)
				}
				time.Sleep(50 * time.Millisecond) // its work
				return appendLine(file, event.ID)
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	},
	"bare": func(ctx context.Context, js jetstream.JetStream, file string, c *crash) error {
		consumer, err := js.CreateOrUpdateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{
			Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy, AckWait: childAckWait,
		})
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			msg, err := consumer.Next(jetstream.FetchContext(ctx))
			if errors.Is(err, nats.ErrTimeout) {
				continue
			}
			if err != nil {
				return err
			}
			c.pass("delivered")
			if err := appendLine(file, msg.Headers().Get("ce-id")); err != nil {
				return err
			}
			c.pass("worked")
			if err := msg.DoubleAck(ctx); err != nil {
				return err
			}
		}
		return nil
	},
}

func runChild(kind string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := newCrash(os.Getenv(childCrashEnv))
	nc, err := nats.Connect(os.Getenv(childURLEnv), nats.Timeout(embeddedtest.Timeout), nats.MaxReconnects(-1), nats.SetCustomDialer(c))
	if err == nil {
		defer nc.Close()
		var js jetstream.JetStream
		if js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second)); err == nil {
			err = childKinds[kind](ctx, js, os.Getenv(childFileEnv), c)
		}
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, kind, err)
		return 1
	}
	return 0
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line + "\n")
	return err
}

// A crash kills its own process at a point. It is the dialer of the connection, to
// detect the acknowledgements: "acking" is before one is written, "acked" after it
// was written and before it is confirmed.
type crash struct {
	point string
	left  atomic.Int64
}

func newCrash(s string) *crash {
	c := &crash{}
	point, n, _ := strings.Cut(s, ":")
	c.point = point
	times, _ := strconv.ParseInt(n, 10, 64)
	c.left.Store(times)
	return c
}

func (c *crash) pass(point string) {
	if point == c.point && c.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (c *crash) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &crashingConn{conn, c}, err
}

type crashingConn struct {
	net.Conn
	crash *crash
}

func (c *crashingConn) Write(b []byte) (int, error) {
	acks := bytes.Count(b, []byte("+ACK\r\n"))
	for range acks {
		c.crash.pass("acking")
	}
	n, err := c.Conn.Write(b)
	for range acks {
		c.crash.pass("acked")
	}
	return n, err
}

// startChild starts a consumer of the given kind. It is killed when the test
// ends, if it was not before.
func startChild(t testing.TB, kind, url, file, crash string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+kind, childURLEnv+"="+url, childFileEnv+"="+file, childCrashEnv+"="+crash)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd
}

// kill ends a child with SIGKILL.
func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// done returns how often a consumer of the given kind has done its work, by id.
func done(t testing.TB, kind, file string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	if kind != "transaction" {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for id := range strings.Lines(string(text)) {
			counts[strings.TrimSpace(id)]++
		}
		return counts
	}
	r, err := openReports(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.db.Close()
	rows, err := r.db.Query(`SELECT id FROM reports`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return counts
}

// requireDone checks that every id was processed, exactly once where the work is
// transactional, and no other id. It returns how many were not, and how often work
// was repeated.
func requireDone(t testing.TB, kind, file string, ids map[string]bool) (missing, again int) {
	t.Helper()
	counts := done(t, kind, file)
	for id := range ids {
		if counts[id] == 0 {
			t.Errorf("%s: %s is missing", kind, id)
			missing++
		}
	}
	for id, n := range counts {
		if !ids[id] {
			t.Errorf("%s: %s was never accepted", kind, id)
		}
		if n > 1 && kind == "transaction" {
			t.Errorf("%s: %s was done %d times", kind, id, n)
		}
		again += n - 1
	}
	return missing, again
}
