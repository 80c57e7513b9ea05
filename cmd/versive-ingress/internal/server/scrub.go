package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
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
// before a consumer needs it. Then it looks for content of erased messages in the files.
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
			for kind := range schema.Kinds {
				s.scrub(s.background, conn, kind)
			}
			select {
			case <-s.background.Done():
			case <-time.After(scrubInterval):
			}
		}
	})
	return nil
}

// scrub reads a stream, and reports what cannot be read, and erased content that is left.
func (s *Server) scrub(ctx context.Context, conn *broker.Connection, kind schema.Kind) {
	overwritten, err := readThrough(ctx, conn.Source, kind)
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](err); ok {
		s.publisher.ReportUnreadable(kind, unreadable.Sequences)
	} else if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) && ctx.Err() == nil {
		s.log.Warn("stream could not be read to its end; its messages are verified at the next pass", "error", err, "wait", scrubInterval.String())
	}
	if len(overwritten) == 0 {
		return
	}
	if err := s.settle(ctx, conn, kind, overwritten); err != nil && ctx.Err() == nil {
		s.log.Warn("block files could not be searched for erased messages; they are at the next pass", "error", err, "wait", scrubInterval.String())
	}
}

// readThrough reads a stream to its end, no faster than scrubRate. It returns the sequences
// of messages that were erased, or deleted from the other streams.
func readThrough(ctx context.Context, source subscribe.Source, kind schema.Kind) (overwritten []uint64, err error) {
	limiter, last := rate.NewLimiter(scrubRate, scrubRate), uint64(0)
	for m, err := range source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		if err != nil {
			return overwritten, err
		}
		overwritten = append(overwritten, publish.ErasedCopies(m.Header)...)
		for missing := last + 1; kind != schema.KindEvent && last > 0 && missing < m.Sequence; missing++ {
			overwritten = append(overwritten, missing)
		}
		last = m.Sequence
		if err := limiter.WaitN(ctx, min(m.Size, scrubRate)); err != nil {
			return overwritten, err
		}
	}
	return overwritten, nil
}

// settle makes the next start overwrite messages whose content is still in the files of the
// embedded broker. The server of a cluster does not overwrite what was erased while it was
// away, if it then gets the end of the stream from the others; nor does one that was killed
// before it had.
func (s *Server) settle(ctx context.Context, conn *broker.Connection, kind schema.Kind, overwritten []uint64) error {
	stream, err := publish.OpenStream(ctx, conn.JetStream, kind.Stream(s.settings.Stream))
	for err == nil && !isCurrent(stream.CachedInfo().Cluster, conn.NC.ConnectedServerName()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
			stream, err = publish.OpenStream(ctx, conn.JetStream, kind.Stream(s.settings.Stream))
		}
	}
	if err != nil {
		return err
	}
	erased := embedded.Erased{Stream: stream.CachedInfo().Config.Name, Created: stream.CachedInfo().Created, Sequences: overwritten}
	remaining, err := erased.Sync(s.settings.DataDir)
	if err != nil || len(remaining) == 0 {
		return err
	}
	if erased.Sequences, err = publish.Deleted(ctx, stream, remaining); err != nil || len(erased.Sequences) == 0 {
		return err
	}
	if err := erased.Schedule(s.settings.DataDir); err != nil {
		return err
	}
	s.log.Warn("content of erased messages is in block files; the next start overwrites it", "stream", erased.Stream, "messages", len(erased.Sequences), "remedy", "restart this ingress")
	return nil
}

// isCurrent reports whether a server has all of a stream.
func isCurrent(cluster *jetstream.ClusterInfo, server string) bool {
	if cluster == nil || len(cluster.Replicas) == 0 || cluster.Leader == server {
		return true
	}
	return slices.ContainsFunc(cluster.Replicas, func(p *jetstream.PeerInfo) bool { return p.Name == server && p.Current })
}
