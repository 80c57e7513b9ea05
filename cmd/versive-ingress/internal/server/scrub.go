package server

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	// scrubInterval is the time between two passes over the streams. The first pass
	// begins at the start.
	scrubInterval = 24 * time.Hour
	// scrubRate bounds how many bytes of the store are read per second, so that
	// nothing else waits for the disk.
	scrubRate = 8 << 20
)

// startScrub starts to read the streams of the embedded broker repeatedly. The server
// verifies the checksum of each message, so one that it cannot return is reported
// before a consumer needs it.
func (s *Server) startScrub(context.Context) error {
	if s.broker == nil {
		return nil
	}
	conn, err := broker.Open(s.background, s.settings, "scrub", nats.InProcessServer(s.broker))
	if err != nil {
		return err
	}
	s.tasks.Go(func() {
		defer conn.Close()
		for s.background.Err() == nil {
			for kind := range schema.KindDead + 1 {
				s.scrub(s.background, conn.Source, kind)
			}
			select {
			case <-s.background.Done():
			case <-time.After(scrubInterval):
			}
		}
	})
	return nil
}

// scrub reads a stream and reports what cannot be read.
func (s *Server) scrub(ctx context.Context, source subscribe.Source, kind schema.Kind) {
	err := readThrough(ctx, source, kind)
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](err); ok {
		s.publisher.ReportUnreadable(kind, unreadable.Sequences)
	} else if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) && ctx.Err() == nil {
		s.log.Warn("stream could not be read to its end; its messages are verified at the next pass", "error", err, "wait", scrubInterval.String())
	}
}

// readThrough reads a stream to its end, no faster than scrubRate.
func readThrough(ctx context.Context, source subscribe.Source, kind schema.Kind) error {
	limiter := rate.NewLimiter(scrubRate, scrubRate)
	for m, err := range source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		if err != nil {
			return err
		}
		if err := limiter.WaitN(ctx, min(m.Size, scrubRate)); err != nil {
			return err
		}
	}
	return nil
}
