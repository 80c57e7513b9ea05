package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// scrubEvery is between two passes over the streams; the first begins at the
	// start.
	scrubEvery = 24 * time.Hour
	// scrubRate is how many bytes of the store are read a second, so that nothing
	// else waits for the disk.
	scrubRate = 8 << 20
)

// A scrub reads the embedded broker's streams now and then, so that a message
// which the store has but cannot return is reported before somebody needs it.
// The server verifies each one's checksum.
type scrub struct {
	source    subscribe.Source
	publisher *publish.Publisher
	log       *slog.Logger

	nc      *nats.Conn
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// startScrub starts it, for as long as stop is not called.
func (i *ingress) startScrub() error {
	nc, err := nats.Connect("", i.credentials.Option, nats.InProcessServer(i.broker), nats.Name("versive-ingress scrub"),
		nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return fmt.Errorf("connecting to the embedded broker: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return err
	}
	s := i.settings
	i.scrub = &scrub{source: subscribe.Source{JetStream: js, Stream: s.Stream, Subject: s.Subject}, publisher: i.publisher, log: i.log, nc: nc}
	ctx, cancel := context.WithCancel(context.Background())
	i.scrub.cancel = cancel
	i.scrub.running.Go(func() { i.scrub.run(ctx) })
	return nil
}

func (s *scrub) stop() {
	s.cancel()
	s.running.Wait()
	s.nc.Close()
}

func (s *scrub) run(ctx context.Context) {
	for {
		for kind := range schema.KindDead + 1 {
			err := s.pass(ctx, kind)
			if ctx.Err() != nil {
				return
			}
			unreadable, ok := errors.AsType[*subscribe.UnreadableError](err)
			switch {
			case ok:
				s.publisher.ReportUnreadable(kind, unreadable.Sequences)
			case err != nil && !errors.Is(err, jetstream.ErrStreamNotFound):
				s.log.Warn("stream could not be read to its end; its messages are verified at the next pass", "error", err, "wait", scrubEvery)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(scrubEvery):
		}
	}
}

// pass reads a stream to its end.
func (s *scrub) pass(ctx context.Context, kind schema.Kind) error {
	limiter := rate.NewLimiter(scrubRate, scrubRate)
	for m, err := range s.source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		if err != nil {
			return err
		}
		if err := limiter.WaitN(ctx, min(m.Size, scrubRate)); err != nil {
			return err
		}
	}
	return nil
}
