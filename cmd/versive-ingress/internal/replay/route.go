package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// A route sends messages over one connection, and returns for each a function that
// waits for its confirmation. Those are called in the messages' order.
type route func(*nats.Msg) confirmation

// A confirmation returns nil when the message has arrived. duplicate reports whether
// it was there before.
type confirmation func(ctx context.Context) (duplicate bool, err error)

// toStream returns the route to subjects on which streams listen: check is called
// with the acknowledgement of each message. closed is closed with the connection.
func toStream(nc *nats.Conn, closed <-chan struct{}, check func(*jetstream.PubAck) error) (route, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return func(msg *nats.Msg) confirmation {
		future, err := js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0)) // a retry would be out of order
		return func(ctx context.Context) (duplicate bool, _ error) {
			if err != nil {
				return false, err
			}
			select {
			case ack := <-future.Ok():
				return ack.Duplicate, check(ack)
			case err := <-future.Err():
				return false, err
			case <-ctx.Done():
				return false, context.Cause(ctx)
			case <-closed:
			}
			select {
			case ack := <-future.Ok(): // from before
				return ack.Duplicate, check(ack)
			default:
				return false, nats.ErrConnectionClosed
			}
		}
	}, nil
}

// toSubscribers returns the route to a subject on which no stream listens. A message
// is confirmed when the server has passed it on to the subscribers.
func toSubscribers(nc *nats.Conn) route {
	sent, flushed := 0, 0
	return func(msg *nats.Msg) confirmation {
		err := nc.PublishMsg(msg)
		sent++
		number := sent
		return func(ctx context.Context) (duplicate bool, _ error) {
			if err != nil || number <= flushed {
				return false, err
			}
			if err := nc.FlushWithContext(ctx); err != nil {
				return false, err
			}
			if err := nc.LastError(); err != nil { // such as a permission violation
				return false, err
			}
			flushed = sent
			return false, nil
		}
	}
}

// boundStreams returns the streams that a subject is stored in, and their JetStream
// domain. It refuses those of the ingress.
func boundStreams(ctx context.Context, c *broker.Connection, subject string) (names []string, domain string, err error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	lister := c.JetStream.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		return nil, "", fmt.Errorf("asking which stream listens on %s: %w", subject, err)
	}
	first, _, _ := strings.Cut(subject, ".")
	for kind := range schema.Kinds {
		if name := kind.Stream(c.Settings.Stream); first == kind.Prefix(c.Settings.Subject) || slices.Contains(names, name) {
			return nil, "", fmt.Errorf("--to-subject %s would write into %s, a stream of the ingress; give a subject of your own", subject, name)
		}
	}
	if len(names) > 0 {
		domain, err = publish.Domain(ctx, c.JetStream.Conn(), names[0])
	}
	return names, domain, err
}
