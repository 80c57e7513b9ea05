package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// TestScripts runs the command as its users do. Each script has settings of
// its own for a serve: a secret, and addresses that are free.
func TestScripts(t *testing.T) {
	t.Parallel()
	skipProcesses(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("INGRESS_SECRETS", config.NewSecret())
			for _, name := range []string{"INGRESS_LISTEN", "INGRESS_ADMIN_LISTEN", "INGRESS_NATS_LISTEN"} {
				e.Setenv(name, embeddedtest.FreeAddress(t))
			}
			e.Setenv("INGRESS_DATA_DIR", e.WorkDir+"/data")
			e.Setenv("OTHER_SECRET", config.NewSecret())
			e.Setenv("OTHER_ADDRESS", embeddedtest.FreeAddress(t))
			e.Setenv("STALE", strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":     scriptReady,
			"consumer":  scriptConsumer,
			"consume":   scriptConsume,
			"await":     scriptAwait,
			"terminate": scriptTerminate,
			"oneline":   scriptOneLine,
		},
	})
}

// ready waits until the ingress that runs in the background is.
func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: ready")
	}
	url := "http://" + ts.Getenv("INGRESS_ADMIN_LISTEN") + "/readyz"
	for deadline := time.Now().Add(embeddedtest.Timeout); ; time.Sleep(10 * time.Millisecond) {
		status, why := get(url)
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not ready: %s", why)
		}
	}
}

// consumer creates a durable consumer, which receives some events and acknowledges them.
func scriptConsumer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: consumer name events")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	nc, err := nats.Connect("nats://" + ts.Getenv("INGRESS_NATS_LISTEN"))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), embeddedtest.Timeout)
	defer cancel()
	durable, err := js.CreateOrUpdateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{Durable: args[0], AckPolicy: jetstream.AckExplicitPolicy})
	ts.Check(err)
	for range n {
		m, err := durable.Next(jetstream.FetchContext(ctx))
		ts.Check(err)
		ts.Check(m.DoubleAck(ctx))
	}
}

// consume has a consumer refuse, or handle, all events and requeued dead letters.
func scriptConsume(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: consume name refuse|handle")
	}
	nc, err := nats.Connect("nats://" + ts.Getenv("INGRESS_NATS_LISTEN"))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, stop := context.WithTimeout(context.Background(), embeddedtest.Timeout)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: args[0],
			Event: func(context.Context, schema.Event, subscribe.Message) error {
				if args[1] == "refuse" {
					return fmt.Errorf("no such account\x1b: %w", subscribe.ErrPermanent)
				}
				return nil
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	}()
	for settled := false; !settled && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		settled = true
		for _, stream := range []string{"VERSIVE", "VERSIVE_DEAD"} {
			c, err := js.Consumer(ctx, stream, args[0])
			settled = settled && err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
		}
	}
	ts.Check(ctx.Err())
	stop()
	ts.Check(<-ended)
}

// await waits until a file that is being written has some words.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await words file")
	}
	for deadline := time.Now().Add(embeddedtest.Timeout); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[1]))
		if strings.Contains(string(text), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s lacks %q: %v\n%s", args[1], args[0], err, text)
		}
	}
}

// terminate sends SIGTERM to all that runs in the background.
func scriptTerminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: terminate")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

// oneline checks that the last command wrote nothing but one line to stderr,
// which begins with the given words.
func scriptOneLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: oneline [words]")
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout has %q", out)
	}
	want := "versive-ingress: "
	if len(args) == 1 {
		want += args[0]
	}
	text := ts.ReadFile("stderr")
	if !strings.HasPrefix(text, want) || strings.Index(text, "\n") != len(text)-1 {
		ts.Fatalf("stderr is not one line that begins with %q: %q", want, text)
	}
}
