package main

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
)

// roundConsumers are the durable consumers of a round: one reads all along, the
// other has acknowledged something and is away.
type roundConsumers struct {
	js    jetstream.JetStream
	floor uint64 // of the one that is away

	mu   sync.Mutex
	seen map[string]bool // ids that the reader was given; guarded by mu
}

const (
	readingConsumer = "reading"
	awayConsumer    = "away"
)

// consume creates the consumers. The reader ends with the round.
func (d *diskRound) consume() *roundConsumers {
	d.Helper()
	c := &roundConsumers{js: d.dialEmbedded(d.settings), seen: make(map[string]bool)}
	for _, name := range []string{readingConsumer, awayConsumer} {
		_, err := c.js.CreateConsumer(d.Context(), d.settings.Stream, jetstream.ConsumerConfig{
			Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * time.Second, MaxDeliver: -1,
		})
		if err != nil {
			d.Fatal(err)
		}
	}
	away, err := c.js.Consumer(d.Context(), d.settings.Stream, awayConsumer)
	if err != nil {
		d.Fatal(err)
	}
	for range 5 + d.random.IntN(5) {
		msg, err := away.Next(jetstream.FetchMaxWait(embeddedtest.Timeout))
		if err == nil {
			err = msg.DoubleAck(d.Context())
		}
		if err != nil {
			d.Fatal(err)
		}
	}
	info, err := away.Info(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	c.floor = info.AckFloor.Stream

	ctx, stop := context.WithCancel(d.Context())
	var reader sync.WaitGroup
	reader.Go(func() { c.read(ctx, d.settings.Stream) })
	d.Cleanup(func() {
		stop()
		reader.Wait()
	})
	return c
}

// read continues to read until ctx ends, even if the broker fails meanwhile.
func (c *roundConsumers) read(ctx context.Context, stream string) {
	for ctx.Err() == nil {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		reading, err := c.js.Consumer(ask, stream, readingConsumer)
		if err == nil {
			var batch jetstream.MessageBatch
			if batch, err = reading.Fetch(50, jetstream.FetchContext(ask)); err == nil {
				for msg := range batch.Messages() {
					c.mu.Lock()
					c.seen[msg.Headers().Get(jetstream.MsgIDHeader)] = true
					c.mu.Unlock()
					_ = msg.Ack() // what does not arrive is delivered again
				}
			}
		}
		cancel()
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// check checks that no consumer is lost, and that the reader was given every
// event that was answered 2xx and not erased.
func (c *roundConsumers) check(d *diskRound) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), embeddedtest.Timeout)
	defer cancel()
	for _, name := range []string{readingConsumer, awayConsumer} {
		consumer, err := c.js.Consumer(ctx, d.settings.Stream, name)
		if err != nil {
			d.storm.consumersLost++
			d.Errorf("durable consumer %s: %v", name, err)
			return
		}
		if info := consumer.CachedInfo(); name == awayConsumer && info.AckFloor.Stream != c.floor {
			d.storm.consumersLost++
			d.Errorf("durable consumer %s had acknowledged all up to %d, and now %d", name, c.floor, info.AckFloor.Stream)
		}
	}
	embeddedtest.Await(d, "all was read", func() bool {
		consumer, err := c.js.Consumer(ctx, d.settings.Stream, readingConsumer)
		return err == nil && consumer.CachedInfo().NumPending == 0 && consumer.CachedInfo().NumAckPending == 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	reported := make(map[string]bool)
	for _, a := range d.storm.history {
		if a.kind == understood && a.answer.Accepted() && !c.seen[a.id] && !reported[a.id] {
			reported[a.id] = true
			d.storm.unread++
			d.Errorf("%s was answered %v, and durable consumer %s was never given it", a.id, a.answer, readingConsumer)
		}
	}
}
