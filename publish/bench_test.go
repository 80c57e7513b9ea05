package publish_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// BenchmarkPublish compares the modes with the embedded broker, which syncs every
// commit to the disk. An operation is an event of 8 KiB.
//
//	go test -run '^$' -bench Publish -benchtime 2s ./publish
func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		for _, mode := range []publish.Mode{publish.ModeSingle, publish.ModeBatch} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, mode), func(b *testing.B) {
				benchmark(b, mode, callers)
			})
		}
	}
}

func benchmark(b *testing.B, mode publish.Mode, callers int) {
	broker, err := embedded.Start(b.Context(), embedded.Config{Dir: b.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Stop()
	cfg := config("")
	cfg.Options = []nats.Option{nats.InProcessServer(broker)}
	cfg.Mode = mode
	cfg.Timeout = 10 * time.Second
	p, err := publish.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()

	data := make([]byte, 8<<10)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				m := schema.Quarantine(fmt.Sprintf("msg_%d", i), data, &schema.Error{Reason: schema.Malformed}, nil)
				if _, err := p.Publish(b.Context(), m); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
