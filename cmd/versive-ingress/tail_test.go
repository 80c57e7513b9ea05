package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// tail shows what is stored from its start on, once and in its order, while
// the broker goes and comes back, which the standard error reports.
func TestTailAcrossRestart(t *testing.T) {
	t.Parallel()
	config := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, config)
	fill(t, broker.URL(), 1, 10)
	js := embeddedtest.Connect(t, broker.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))

	file := filepath.Join(t.TempDir(), "events")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := command(broker.URL(), "tail", "--json")
	var log embeddedtest.Log
	cmd.Stdout, cmd.Stderr = out, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	embeddedtest.Await(t, "tail reads", func() bool {
		stream, err := js.Stream(t.Context(), "VERSIVE")
		return err == nil && stream.CachedInfo().State.Consumers > 0
	})

	shown := func(to int) {
		t.Helper()
		want := ids(readAll(t, js, "VERSIVE"))[10:to]
		embeddedtest.Await(t, "events are shown", func() bool { return len(lineIDs(t, file)) >= len(want) })
		if got := lineIDs(t, file); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	fill(t, broker.URL(), 11, 30)
	shown(30)
	for _, to := range []int{50, 70} {
		broker.Stop()
		broker = embeddedtest.StartBroker(t, config)
		embeddedtest.Await(t, "the broker is back", func() bool { return js.Conn().IsConnected() })
		fill(t, broker.URL(), to-19, to)
		shown(to)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	lost, back := strings.Count(log.String(), "broker at "+broker.URL()+" is lost: "), strings.Count(log.String(), ": connected to the broker again\n")
	if err != nil || lost != 2 || back != 2 || strings.Count(log.String(), "\n") != 4 {
		t.Errorf("%v: %s", err, &log)
	}
}

// Ctrl-C ends it while the broker is away, too.
func TestTailEndsWithoutBroker(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: "127.0.0.1:0"})
	fill(t, broker.URL(), 1, 1)
	file := filepath.Join(t.TempDir(), "events")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := command(broker.URL(), "tail", "--since", "1h", "--json")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	embeddedtest.Await(t, "the event is shown", func() bool { return len(lineIDs(t, file)) == 1 })
	broker.Stop()
	start := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || time.Since(start) > 30*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
