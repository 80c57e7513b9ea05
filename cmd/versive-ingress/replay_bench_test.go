package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

var replayEvents = flag.Int("replay.events", 2000, "BenchmarkReplay: how many events of 8 KiB to replay")

// BenchmarkReplay replays a stream to each target, and has the nats CLI read
// it. Then it does so again with a kill -9 in the middle, and checks that the
// target has every event. See .ci/replay-bench.
func BenchmarkReplay(b *testing.B) {
	broker := embeddedtest.StartBroker(b, embedded.Config{Dir: b.TempDir(), Listen: "127.0.0.1:0"})
	defer func(original []byte) { sample = original }(sample)
	sample = bytes.Replace(sample, []byte(`"transcript": "..."`), []byte(`"transcript": "`+strings.Repeat("word ", 1450)+`"`), 1)
	fill(b, broker.URL(), 1, *replayEvents)
	js := embeddedtest.Connect(b, broker.URL())
	want := ids(readAll(b, js, "VERSIVE"))

	var mu sync.Mutex
	var posted []string
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, r.Header.Get("svix-id"))
	}))
	defer endpoint.Close()
	file := filepath.Join(b.TempDir(), "events")

	for _, target := range []struct {
		name  string
		args  []string
		clear func()
		got   func() []string
	}{
		{"lines", nil, func() { os.Remove(file) }, func() []string { return lineIDs(b, file) }},
		{
			"stream",
			[]string{"--to-subject", "again.>"},
			func() {
				config := jetstream.StreamConfig{Name: "AGAIN", Subjects: []string{"again.>"}}
				if _, err := js.CreateOrUpdateStream(b.Context(), config); err != nil {
					b.Fatal(err)
				}
				stream, err := js.Stream(b.Context(), "AGAIN")
				if err == nil {
					err = stream.Purge(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
			},
			func() []string { return ids(readAll(b, js, "AGAIN")) },
		},
		{"plain", []string{"--to-subject", "plain.>"}, func() {}, nil},
		{"endpoint", []string{"--to-url", endpoint.URL}, func() { posted = nil }, func() []string { return posted }},
	} {
		b.Run(target.name, func(b *testing.B) {
			target.clear()
			run := func(args ...string) *exec.Cmd {
				out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { out.Close() })
				cmd := command(broker.URL(), append(append([]string{"replay"}, target.args...), args...)...)
				cmd.Stdout = out
				return cmd
			}
			for b.Loop() {
				measure(b, run())
			}
			if target.got == nil {
				return
			}
			requireAll(b, want, target.got(), 0)

			target.clear()
			checkpointed := filepath.Join(b.TempDir(), "checkpoint")
			cmd := run("--checkpoint", checkpointed)
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			embeddedtest.Await(b, "a part is done", func() bool { return int(readState(checkpointed).Done.Sequence) > len(want)/3 })
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			at := readState(checkpointed).Done.Sequence
			succeed(b, run("--checkpoint", checkpointed))
			got := target.got()
			requireAll(b, want, got, len(want))
			b.Logf("killed when %d of %d were noted as done; went on with %d repeated", at, len(want), len(got)-len(want))
		})
	}
	// Side by side, so that both have the same of the machine.
	b.Run("lines-and-nats-CLI", func(b *testing.B) {
		var ours, theirs time.Duration
		to := func(cmd *exec.Cmd) time.Duration {
			out, err := os.Create(file)
			if err != nil {
				b.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout = out
			start := time.Now()
			succeed(b, cmd)
			return time.Since(start)
		}
		const rounds = 3
		for b.Loop() {
			for range rounds {
				theirs += to(exec.Command("nats", "--server", broker.URL(), "subscribe", "--stream", "VERSIVE", "--all", "--raw", "--count", fmt.Sprint(len(want))))
				ours += to(command(broker.URL(), "replay"))
			}
		}
		events := float64(rounds * b.N * len(want))
		b.ReportMetric(events/ours.Seconds(), "events/s")
		b.ReportMetric(events/theirs.Seconds(), "nats-CLI-events/s")
		b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
		b.ReportMetric(0, "ns/op")
	})
}

func measure(b *testing.B, cmd *exec.Cmd) {
	start := time.Now()
	succeed(b, cmd)
	b.ReportMetric(float64(*replayEvents)/time.Since(start).Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
}
