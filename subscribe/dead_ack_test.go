package subscribe_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// elsewhere has its first message acknowledged by a stream of the same name in
// another JetStream domain, as happens across a leaf node connection.
type elsewhere struct {
	jetstream.JetStream
	published *atomic.Int64
}

func (e elsewhere) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if e.published.Add(1) == 1 {
		return &jetstream.PubAck{Stream: "VERSIVE_DEAD", Domain: "hub", Sequence: 1}, nil
	}
	return e.JetStream.PublishMsg(ctx, m, opts...)
}

// An event is acknowledged only after its dead letter was read back from its
// stream.
func TestDeadLetterAcknowledgedElsewhere(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "study", "interview")
	var got record
	c := got.consumer()
	c.Event = func(context.Context, schema.Event, subscribe.Message) error { return subscribe.ErrPermanent }
	source := s.source
	source.JetStream = elsewhere{s.source.JetStream, new(atomic.Int64)}
	start(t, source, c)
	s.awaitDone(t, c.Durable)
	if letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead}); len(letters) != 1 {
		t.Errorf("got %d dead letters, want 1", len(letters))
	}
}

// No dead letters are written to a stream that another ingress uses for something
// else.
func TestDeadLettersHaveOneOwner(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "study", "interview")
	if _, err := s.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "VERSIVE_DEAD", Subjects: []string{"other.>"}, Metadata: schema.KindEvent.Metadata("VERSIVE_DEAD"),
	}); err != nil {
		t.Fatal(err)
	}
	var got record
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	err := s.source.Consume(ctx, got.consumer())
	if err == nil || !strings.Contains(err.Error(), "VERSIVE_DEAD: is the event stream of ingress VERSIVE_DEAD") {
		t.Errorf("got %v, want that the stream is another ingress's", err)
	}
}
