package subscribe_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// BenchmarkConsume reads 20,000 events of 1 KiB, each with a confirmed
// acknowledgement, through Consume and through nats.go alone. The part "ratio" reads
// them both ways in turns, and reports the medians of its rounds:
//
//	go test ./subscribe -run '^$' -bench 'Consume/.*/ratio' -benchtime 5x
func BenchmarkConsume(b *testing.B) {
	const events = 20_000
	for _, concurrency := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) {
			s := newSystem(b) // what earlier consumers have left behind slows later ones down
			s.storeLoad(b, events, 1<<10)
			ways := []struct {
				name string
				rate func(testing.TB, int, int, func()) float64
			}{{"subscribe", s.consumeRate}, {"nats.go", s.bareRate}}
			for _, way := range ways {
				b.Run(way.name, func(b *testing.B) {
					var rates []float64
					for b.Loop() {
						rates = append(rates, way.rate(b, events, concurrency, func() {}))
					}
					b.ReportMetric(median(rates), "events/s")
				})
			}
			b.Run("ratio", func(b *testing.B) {
				var rates [2][]float64
				var ratios []float64
				for b.Loop() {
					for i, way := range ways {
						rates[i] = append(rates[i], way.rate(b, events, concurrency, func() {}))
					}
					round := len(ratios)
					ratios = append(ratios, rates[0][round]/rates[1][round])
				}
				b.ReportMetric(median(rates[0]), "events/s")
				b.ReportMetric(median(rates[1]), "nats.go-events/s")
				b.ReportMetric(median(ratios), "ratio")
				b.ReportMetric(slices.Min(ratios), "least-ratio")
			})
		})
	}
}

// BenchmarkSlowHandlers handles 500 events in 200 ms each. None may be redelivered.
func BenchmarkSlowHandlers(b *testing.B) {
	const events = 500
	s := newSystem(b)
	s.storeLoad(b, events, 1<<10)
	for _, concurrency := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(s.consumeRate(b, events, concurrency, func() { time.Sleep(200 * time.Millisecond) }), "events/s")
			}
		})
	}
}

// storeLoad stores n events of the given size.
func (s *system) storeLoad(b *testing.B, n, size int) {
	b.Helper()
	transcript := size - len(largeEvent(b, "msg_00000", 0).Data)
	var stored sync.WaitGroup
	next := make(chan int)
	for range 1000 { // which share a few commits
		stored.Go(func() {
			for i := range next {
				event := largeEvent(b, fmt.Sprintf("msg_%05d", i), transcript)
				if _, err := s.publisher.Publish(context.Background(), event); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	stored.Wait()
}

// consumeRate returns how many events Consume handles a second, until the last
// acknowledgement is confirmed.
func (s *system) consumeRate(b testing.TB, events, concurrency int, work func()) float64 {
	b.Helper()
	name := durableName()
	begun, done := make(chan time.Time, 1), make(chan struct{})
	var handled atomic.Int64
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.source.Consume(ctx, subscribe.Consumer{
			Durable: name, Concurrency: concurrency,
			Event: func(context.Context, schema.Event, subscribe.Message) error {
				select {
				case begun <- time.Now():
				default:
				}
				work()
				if handled.Add(1) == int64(events) {
					close(done)
				}
				return nil
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	}()
	<-done
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	rate := float64(events) / time.Since(<-begun).Seconds()
	s.requireOnce(b, name, events)
	return rate
}

// bareRate does the same with nats.go alone.
func (s *system) bareRate(b testing.TB, events, concurrency int, work func()) float64 {
	b.Helper()
	name := durableName()
	consumer, err := s.js.CreateConsumer(b.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		b.Fatal(err)
	}
	slots, done := make(chan struct{}, concurrency), make(chan struct{})
	var handled atomic.Int64
	begun := time.Now()
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		handle := func() {
			work()
			if err := msg.DoubleAck(context.Background()); err != nil {
				b.Error(err)
			}
			if handled.Add(1) == int64(events) {
				close(done)
			}
		}
		if concurrency == 1 {
			handle()
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			handle()
		}()
	})
	if err != nil {
		b.Fatal(err)
	}
	<-done
	rate := float64(events) / time.Since(begun).Seconds()
	consuming.Stop()
	s.requireOnce(b, name, events)
	return rate
}

// requireOnce checks that each event was delivered once and acknowledged, and deletes
// the consumer.
func (s *system) requireOnce(b testing.TB, durable string, events int) {
	b.Helper()
	consumer, err := s.js.Consumer(b.Context(), "VERSIVE", durable)
	if err != nil {
		b.Fatal(err)
	}
	info := consumer.CachedInfo()
	if info.Delivered.Consumer != uint64(events) || info.AckFloor.Stream < uint64(events) || info.NumAckPending != 0 {
		b.Errorf("%d deliveries of %d events, %d not acknowledged", info.Delivered.Consumer, events, info.NumAckPending)
	}
	if err := s.js.DeleteConsumer(b.Context(), "VERSIVE", durable); err != nil {
		b.Fatal(err)
	}
}

func durableName() string { return strings.ReplaceAll(nats.NewInbox(), ".", "-") }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
