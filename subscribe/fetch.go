package subscribe

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// heartbeat is how often the broker confirms that it still holds a request
	// for messages. It is half the time for which the client asks, by default,
	// and therefore the longest that there can be: the client ends a request
	// when neither a message nor a heartbeat has arrived whole for twice as
	// long, and on a slow connection heartbeats wait behind a large message.
	heartbeat = jetstream.DefaultExpires / 2
	// fetchBytes bounds a request for several messages. The broker writes all of
	// them immediately, and closes a connection that does not take in what it
	// writes within its write_deadline, 10 s by default.
	fetchBytes = 8 << 20
	// apiTimeout bounds one API request to the broker.
	apiTimeout = 5 * time.Second
	// retryWait is between attempts to reach the broker.
	retryWait = 500 * time.Millisecond
)

// fetch requests up to n messages from a consumer. The request ends after 30 s
// (not at a deadline of ctx), with ctx, or with the connection: a broker that
// was restarted has forgotten it. The caller must call end after it has read the
// batch.
//
// If n is above 1, the batch ends before the first message with which it would
// exceed fetchBytes. A message that is larger by itself arrives only if it is
// requested alone, so the caller must request one message after an empty batch.
func (s Source) fetch(ctx context.Context, consumer jetstream.Consumer, n int) (batch jetstream.MessageBatch, end func(), err error) {
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	nc := s.JetStream.Conn()
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go func() {
		<-lost
		cancel()
	}()
	if nc.IsReconnecting() { // it was lost before
		cancel()
	}
	end = func() {
		stop()
		nc.RemoveStatusListener(lost) // closes it
	}
	options := []jetstream.FetchOpt{jetstream.FetchContext(request), jetstream.FetchHeartbeat(heartbeat)}
	if n > 1 {
		options = append(options, jetstream.FetchMaxBytes(fetchBytes))
	}
	if batch, err = consumer.Fetch(n, options...); err != nil {
		end()
		return nil, nil, err
	}
	return batch, end, nil
}

// wait waits before the next attempt to reach the broker, or until ctx ends.
func wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryWait):
	}
}

func isClosed(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, jetstream.ErrConnectionClosed)
}
