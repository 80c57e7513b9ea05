package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// Source identifies the streams to read. It is safe for concurrent use.
//
// The connection of JetStream should reconnect indefinitely
// (nats.MaxReconnects(-1)): the methods wait for a broker that is away, but
// return an error when the connection is closed.
type Source struct {
	JetStream jetstream.JetStream
	Stream    string // the event stream, from which the others' names derive; "" is VERSIVE
	Subject   string // first token of the events' subjects; "" is versive
}

func (s Source) stream(kind schema.Kind) string { return kind.Stream(cmp.Or(s.Stream, "VERSIVE")) }

// open looks up a stream and its state at its leader, as publish.OpenStream does. A direct
// get of it would be answered by a replica that lags, which does not find a stored message.
func (s Source) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	for {
		stream, err := s.JetStream.Stream(ctx, s.stream(kind))
		if err != nil {
			return nil, err
		}
		if isFromLeader(stream.CachedInfo()) {
			stream.CachedInfo().Config.AllowDirect = false // the client uses direct get where this is set
			return stream, nil
		}
		if wait(ctx); ctx.Err() != nil {
			return nil, errNotLeader
		}
	}
}

var errNotLeader = errors.New("the server that has answered does not lead the stream, and may lack what was stored; retry in 10 seconds")

// isFromLeader reports whether the state of a stream comes from its leader, as
// publish.IsFromLeader does (ADR 28).
func isFromLeader(info *jetstream.StreamInfo) bool {
	c := info.Cluster
	return info.Config.Replicas <= 1 ||
		c != nil && c.Leader != "" && len(c.Replicas) > 0 && !slices.ContainsFunc(c.Replicas, func(p *jetstream.PeerInfo) bool { return p.Name == c.Leader })
}

func (s Source) subject() string { return cmp.Or(s.Subject, "versive") }

// Message is a stored message with its position in the stream: an event, another
// message of its stream, or a tombstone.
type Message struct {
	ID      string // the svix-id: the idempotency key
	Subject string
	Header  nats.Header
	// Organization is that whose secret has verified the webhook, as the ingress names
	// it; "" if it names none. A tombstone may have none although its event had one.
	Organization string
	Data         []byte    // empty in a tombstone, and where Selection.HeadersOnly is set
	Size         int       // of the data in the stream, in bytes
	Sequence     uint64    // in the stream
	Time         time.Time // at which it was stored, in UTC
	Deliveries   uint64    // how often the broker has sent it to this consumer, including now; not how often it was handled

	// Pending is how many messages of the selection, or for the consumer, are
	// stored after it. The broker counted them when it delivered this one.
	Pending uint64

	delivery uint64 // its number among the deliveries to the consumer
	letter   uint64 // the sequence of the dead letter that was requeued; 0 if it is none
}

// Erased reports whether the message is a tombstone: the event of its subject was
// erased, and copies of that must be erased too.
func (m Message) Erased() bool { return schema.IsTombstone(m.Header) }

// Event decodes the event; see [schema.Decode].
func (m Message) Event() (schema.Event, error) { return schema.Decode(m.Header, m.Data) }

// newMessage returns a message that a consumer has received. Its sequence is 0 if
// JetStream has not sent it.
func newMessage(msg jetstream.Msg) Message {
	metadata, err := msg.Metadata()
	if err != nil {
		metadata = &jetstream.MsgMetadata{}
	}
	m := Message{
		Subject:      msg.Subject(),
		Header:       msg.Headers(),
		Organization: schema.Organization(msg.Headers()),
		Data:         msg.Data(),
		Size:         len(msg.Data()),
		Sequence:     metadata.Sequence.Stream,
		Time:         metadata.Timestamp.UTC(),
		Deliveries:   metadata.NumDelivered,
		delivery:     metadata.Sequence.Consumer,
		Pending:      metadata.NumPending,
	}
	if size, err := strconv.Atoi(m.Header.Get(nats.MsgSize)); err == nil {
		m.Size = size
	}
	if m.ID, err = schema.ParseID(m.Subject); err != nil {
		// Another program has published it. Its position serves as the id of its
		// dead letter.
		m.ID = fmt.Sprintf("%s-%d", metadata.Stream, m.Sequence)
	}
	return m
}

const (
	// heartbeat is how often the broker confirms that it still holds a request
	// for messages. The client ends a request when neither a message nor a
	// heartbeat has arrived completely for twice this time, and on a slow
	// connection a large message delays heartbeats. So it is as long as the client
	// allows: half of the duration of a request.
	heartbeat = jetstream.DefaultExpires / 2
	// fetchBytes bounds a request for several messages. The broker writes all of
	// them immediately, and closes a connection on which a write takes longer than
	// its write_deadline, 10 s by default.
	fetchBytes = 8 << 20
	// retryWait is the time between attempts to reach the broker.
	retryWait = 500 * time.Millisecond
)

// withoutDeadline hides a context's deadline from the client, which bounds each
// request to the broker only where there is none: by its own timeout, 5 s by
// default. The context still ends at its deadline.
type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// pull requests up to n messages from a consumer, or fewer if that is the limit of a
// request, or one if the consumer has replicas, and calls handle for each, until that
// returns false. The request ends after 30 s, when no message has arrived for
// stallTimeout, when ctx ends, or with the connection: a broker that was restarted has
// forgotten it.
//
// If n is above 1, it ends before the first message with which it would exceed
// fetchBytes. A message that is larger by itself arrives only if it is requested
// alone, so the caller must request one message after it has got none.
func (s Source) pull(ctx context.Context, consumer jetstream.Consumer, n int, stallTimeout time.Duration, handle func(jetstream.Msg) bool) error {
	request, cancel := context.WithCancel(ctx)
	defer cancel()
	nc := s.JetStream.Conn()
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(lost) // which closes it
	go func() {
		<-lost
		cancel()
	}()
	if nc.IsReconnecting() { // it was lost before
		cancel()
	}
	info := consumer.CachedInfo()
	if limit := info.Config.MaxRequestBatch; limit > 0 { // beyond it, the server rejects the request
		n = min(n, limit)
	}
	if info.Cluster != nil && len(info.Cluster.Replicas) > 0 {
		// The replicas must know of a delivery before the server sends it. The status with
		// which it completes a request that has a limit of bytes is not held back, and
		// arrives first; the client then ends the request without the messages.
		n = 1
	}
	options := []jetstream.FetchOpt{jetstream.FetchContext(request), jetstream.FetchHeartbeat(heartbeat)}
	if n > 1 {
		options = append(options, jetstream.FetchMaxBytes(fetchBytes))
	}
	batch, err := consumer.Fetch(n, options...)
	if err != nil {
		return err
	}
	stalled := time.AfterFunc(stallTimeout, cancel)
	defer stalled.Stop()
	for msg := range batch.Messages() {
		stalled.Stop()
		if !handle(msg) {
			return nil
		}
		stalled.Reset(stallTimeout)
	}
	return batch.Error()
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
