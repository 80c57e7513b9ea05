package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// fileLimit leaves space for the log of opened files that package testing writes,
// to which the limit also applies.
const fileLimit = 4 << 20

// limitFiles makes every write beyond fileLimit in a file fail, as on a full disk,
// until lift is called. It affects the whole process.
func limitFiles(t *testing.T) (lift func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(l syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			t.Error(err)
		}
	}
	set(syscall.Rlimit{Cur: fileLimit, Max: before.Max})
	lift = func() { set(before) }
	t.Cleanup(lift)
	return lift
}

// After a failed write the server would never write to the stream again. The broker
// reports that and heals. In-process clients and subscribers reconnect, and all
// acknowledged messages are there.
func TestHeals(t *testing.T) {
	var log strings.Builder // written by the broker, read when it has stopped
	broker := embeddedtest.StartBroker(t, embedded.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	subscriber := embeddedtest.Connect(t, broker.URL()).Conn()
	subscription, err := subscriber.SubscribeSync("s.>")
	if err != nil {
		t.Fatal(err)
	}

	publish := func(ctx context.Context, subject string) error {
		_, err := js.Publish(ctx, subject, make([]byte, fileLimit/8))
		return err
	}
	scraping, stopScraping := context.WithCancel(t.Context())
	var scrapes sync.WaitGroup
	scrapes.Go(func() { // as monitoring does, to find data races
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for scraping.Err() == nil {
			_, _, _ = broker.Usage()
			_ = broker.Messages()
			<-ticker.C
		}
	})
	defer scrapes.Wait()
	defer stopScraping()
	// The disk has space again as soon as the broker is not ready.
	lift := limitFiles(t)
	ctx, notReady := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	go func() {
		defer notReady()
		for broker.Ready() == nil && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		lift()
	}()
	var acknowledged []string
	for {
		subject := fmt.Sprint("s.", len(acknowledged))
		if publish(ctx, subject) != nil { // no answer
			break
		}
		if acknowledged = append(acknowledged, subject); len(acknowledged) > 100 {
			t.Fatal("the limit has no effect")
		}
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("ready, although the stream cannot be written: %v", ctx.Err())
	}

	embeddedtest.Await(t, "the broker is ready again", func() bool { return broker.Ready() == nil })
	embeddedtest.Await(t, "the subscriber receives a message that is stored", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if publish(ctx, "s.healed") != nil {
			return false
		}
		m, err := subscription.NextMsg(100 * time.Millisecond)
		for err == nil && m.Subject != "s.healed" {
			m, err = subscription.NextMsg(100 * time.Millisecond)
		}
		return err == nil
	})
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range append(acknowledged, "s.healed") {
		if _, err := stream.GetLastMsgForSubject(t.Context(), subject); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
	broker.Stop()
	if n := strings.Count(log.String(), "restarting it"); n != 1 {
		t.Errorf("%d restarts, want 1:\n%s", n, &log)
	}
}

// Stop does not wait until a broker whose disk stays full has healed.
func TestStopsWhileBroken(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := inProcess(t, broker)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	limitFiles(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := js.Publish(ctx, "s", make([]byte, 3*fileLimit/2)); err == nil {
		t.Fatal("the limit has no effect")
	}
	broker.Stop()
	if err := broker.Ready(); err == nil {
		t.Error("ready after Stop")
	}
}
