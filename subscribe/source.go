package subscribe

import (
	"cmp"
	"context"
	"fmt"
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

// open returns a stream that looks messages up at its leader. A direct get may
// be answered by a replica that lags, which does not find a stored message.
func (s Source) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	stream, err := s.JetStream.Stream(ctx, s.stream(kind))
	if err == nil {
		stream.CachedInfo().Config.AllowDirect = false // the client uses direct get where this is set
	}
	return stream, err
}

func (s Source) subject() string { return cmp.Or(s.Subject, "versive") }

// Message is a stored message with its position in the stream: an event, another
// message of its stream, or a tombstone.
type Message struct {
	ID         string // the svix-id: the idempotency key
	Subject    string
	Header     nats.Header
	Data       []byte    // empty in a tombstone, and where Selection.HeadersOnly is set
	Size       int       // of the data in the stream, in bytes
	Sequence   uint64    // in the stream
	Time       time.Time // at which it was stored, in UTC
	Deliveries uint64    // how often the broker has sent it to this consumer, including now; not how often it was handled

	// Pending is how many messages of the selection, or for the consumer, are
	// stored after it. The broker counted them when it delivered this one.
	Pending uint64

	delivery uint64 // its number among the deliveries to the consumer
}

// Erased reports whether the message is a tombstone: the event of its subject was
// erased, and copies of that must be erased too.
func (m Message) Erased() bool { return schema.IsTombstone(m.Header) }

// Event decodes the event; see [schema.Decode].
func (m Message) Event() (schema.Event, error) { return schema.Decode(m.Header, m.Data) }

func newMessage(msg jetstream.Msg) (Message, error) {
	metadata, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("message on %s: %w", msg.Subject(), err)
	}
	m := Message{
		Subject:    msg.Subject(),
		Header:     msg.Headers(),
		Data:       msg.Data(),
		Size:       len(msg.Data()),
		Sequence:   metadata.Sequence.Stream,
		Time:       metadata.Timestamp.UTC(),
		Deliveries: metadata.NumDelivered,
		delivery:   metadata.Sequence.Consumer,
		Pending:    metadata.NumPending,
	}
	if size, err := strconv.Atoi(m.Header.Get(nats.MsgSize)); err == nil {
		m.Size = size
	}
	if m.ID, err = schema.ParseID(m.Subject); err != nil {
		// Another program has published it. Its position serves as the id of its
		// dead letter.
		m.ID = fmt.Sprintf("%s-%d", metadata.Stream, m.Sequence)
	}
	return m, nil
}
