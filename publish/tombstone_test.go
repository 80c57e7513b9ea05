package publish_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A tombstone is put even if the broker takes it for a duplicate, because an earlier
// one with the same message id was deleted by hand.
func TestPutTombstoneAgain(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	m := event(t, "msg_1")
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	for sequence := range uint64(3) {
		if err := (publish.Eraser{JetStream: js, Stream: "VERSIVE"}).PutTombstone(t.Context(), schema.KindEvent, m.Subject("versive")); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != "["+m.Subject("versive")+"*]" {
			t.Fatalf("the stream holds %s", got)
		}
		if sequence < 2 {
			if err := stream.DeleteMsg(t.Context(), sequence+1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := p.Publish(t.Context(), m); err != nil || !got.Duplicate {
		t.Errorf("got %+v, %v; want a duplicate", got, err)
	}
}

// elsewhere returns acknowledgements of a stream of the same name in another JetStream
// domain. It cancels the erasure after the second.
type elsewhere struct {
	jetstream.JetStream
	giveUp    context.CancelFunc
	published *int
}

func (e elsewhere) PublishMsg(context.Context, *nats.Msg, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if *e.published++; *e.published == 2 {
		e.giveUp()
	}
	return &jetstream.PubAck{Stream: "VERSIVE", Sequence: 7, Domain: "hub"}, nil
}

// A copy is not deleted before its tombstone is in the stream.
func TestEraseAcknowledgedElsewhere(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	m := event(t, "msg_1")
	if _, err := p.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := publish.Copy{Kind: schema.KindEvent, Subject: m.Subject("versive"), Sequence: 1}
	if err := (publish.Eraser{JetStream: elsewhere{js, cancel, new(int)}, Stream: "VERSIVE"}).Erase(ctx, c); err == nil || !strings.Contains(err.Error(), "tombstone") {
		t.Errorf("got %v, want an error about the tombstone", err)
	}
	if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != "["+c.Subject+"]" {
		t.Errorf("the stream holds %s", got)
	}
}
