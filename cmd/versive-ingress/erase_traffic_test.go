package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Interviews are erased while a consumer handles their events and gives up on them, dead
// letters and webhooks are requeued, and events are resent. From the end of the erasure on,
// no stream has content of them, and everything else is kept.
func TestEraseAmidTraffic(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	const interviews = 12
	body := func(n int) (id string, body []byte) {
		kind := "interview.completed"
		if n%3 == 0 {
			kind = "interview.started"
		}
		return fmt.Sprint("msg_", n), plantedBody(kind, fmt.Sprint("int-", n%interviews))
	}
	const events = 3 * interviews
	for n := range events {
		id, body := body(n)
		sys.post(t, id, body)
	}

	vendor, err := sender.New(sys.url, s.Secrets[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var resends atomic.Int64
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop()
	tasks.Go(func() {
		err := (subscribe.Source{JetStream: js}).Consume(ctx, subscribe.Consumer{
			Durable: "reports", Concurrency: 8,
			Event: func(context.Context, schema.Event, subscribe.Message) error {
				time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				if rand.IntN(4) == 0 {
					return nil
				}
				return subscribe.ErrPermanent
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
		if err != nil {
			t.Error(err)
		}
	})
	tasks.Go(func() {
		for ctx.Err() == nil {
			id, body := body(rand.IntN(events))
			if a, err := vendor.Post(t.Context(), id, time.Now(), body); err != nil || !a.Accepted() {
				t.Errorf("a resend: %v, %v", a, err)
			}
			resends.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	tasks.Go(func() {
		for ctx.Err() == nil {
			_, _ = runCommand(t, "versive-ingress", s, "deadletters", "requeue", "--all")
			_, _ = runCommand(t, "versive-ingress", s, "quarantine", "requeue", "--all")
		}
	})

	embeddedtest.Await(t, "dead letters", func() bool {
		stream, err := js.Stream(t.Context(), "VERSIVE_DEAD")
		return err == nil && stream.CachedInfo().State.Msgs > 3
	})

	erased := make(map[string]bool)
	left := func(when string) {
		t.Helper()
		for kind := range schema.Kinds {
			for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: kind}) {
				if err != nil {
					t.Fatal(err)
				}
				for id := range erased {
					if bytes.Contains(m.Data, fmt.Appendf(nil, "%q", id)) {
						t.Errorf("%s, %s has %s of %s", when, kind.Stream("VERSIVE"), m.Subject, id)
					}
				}
			}
		}
	}
	for n := 0; n < interviews; n += 4 {
		var ids strings.Builder
		for i := n; i < n+3; i++ {
			fmt.Fprintln(&ids, "int-"+fmt.Sprint(i))
		}
		file := filepath.Join(t.TempDir(), "ids")
		if err := os.WriteFile(file, []byte(ids.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		out := must(t, s, "erase", "--from-file", file, "--yes")
		for id := range strings.FieldsSeq(ids.String()) {
			erased[id] = true
		}
		left("after the erasure")
		if t.Failed() {
			t.Log(out)
		}
	}
	before := resends.Load()
	embeddedtest.Await(t, "more resends", func() bool { return resends.Load() > before+2*events })
	left("later")
	stop()
	tasks.Wait()
	left("at the end")
	kept := make(map[string]bool)
	for kind := range schema.KindDead {
		for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: kind}) {
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Data) > 0 {
				kept[m.ID] = true
			}
		}
	}
	for n := range events {
		if id, _ := body(n); kept[id] == erased[fmt.Sprint("int-", n%interviews)] {
			t.Errorf("%s: kept %v", id, kept[id])
		}
	}
}
