package ingest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// BenchmarkHandler sends signed events of 8 KiB over loopback HTTP to
//
//   - http: a handler that reads the body and answers 204, as the baseline;
//   - ingest: the handler with a publisher that stores nothing;
//   - stored: the handler with the embedded broker and an fsync before each answer.
//
// The client is another process on the same cores. It lowers the requests per
// second, but the CPU time is that of the server alone, including broker and
// kernel.
//
//	go test -run '^$' -bench Handler -benchtime 3s ./ingest
func BenchmarkHandler(b *testing.B) {
	like := func(c *ingest.Config) {
		c.MaxInflight = 256 << 20
		c.Now = nil
		c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) // as in production, except for the write
	}
	for _, server := range []struct {
		name  string
		start func(b *testing.B) (address string)
	}{
		{"http", func(b *testing.B) string {
			return serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusNoContent)
			}), 16<<10)
		}},
		{"ingest", func(b *testing.B) string {
			return newHarness(b, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
				return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
			}}, like).address
		}},
		{"stored", func(b *testing.B) string { return newHarness(b, newStore(b), like).address }},
	} {
		for _, connections := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("%s/connections=%d", server.name, connections), func(b *testing.B) {
				load(b, server.start(b), connections)
			})
		}
	}
}

// load sends b.N events from another process and reports their cost in this one.
func load(b *testing.B, address string, connections int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), loadEnv+"="+address)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	from := bufio.NewReader(out)
	fmt.Fprintln(in, b.N, connections)
	if _, err := from.ReadString('\n'); err != nil {
		b.Fatalf("the client is not ready: %v", err)
	}

	b.ResetTimer()
	used := cpuTime(b)
	fmt.Fprintln(in, "go")
	var rejected, p99 int
	_, err = fmt.Fscanln(from, &rejected, &p99)
	used = cpuTime(b) - used
	b.StopTimer()

	if err != nil || rejected > 0 {
		b.Errorf("%d of %d events were rejected (%v)", rejected, b.N, err)
	}
	if err := cmd.Wait(); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/req")
	b.ReportMetric(float64(p99)/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// cpuTime returns the CPU time that this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
