package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/cmd/versive-ingress/internal/held"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// onOpen calls a function each time before a stream is opened.
type onOpen struct {
	jetstream.JetStream
	call func()
}

func (o onOpen) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	o.call()
	return o.JetStream.Stream(ctx, name)
}

// A requeue has read its webhook before the erasure begins. It stores the event
// and deletes the webhook before any two of the erasure's looks at a stream.
// The erasure leaves nothing in each of these orders.
func TestEraseDuringRequeue(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	run(t, s)
	c, err := broker.Open(t.Context(), s, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	publisher, err := held.OpenPublisher(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	eraser := publish.Eraser{JetStream: c.JetStream, Stream: "VERSIVE"}

	// attempt erases an interview during a requeue, and reports how often it has
	// opened a stream to look for the interview.
	attempt := func(storeAt, deleteAt int) (looks int) {
		interview := fmt.Sprintf("int-%d-%d", storeAt, deleteAt)
		event, err := schema.Normalize("msg_"+interview, plantedBody("interview.completed", interview))
		if err != nil {
			t.Fatal(err)
		}
		raw := schema.Quarantine(event.ID, plantedBody("interview.completed", interview), &schema.Error{Reason: schema.Invalid}, nil)
		ack, err := c.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: raw.Subject("versive"), Header: raw.Header, Data: raw.Data})
		if err != nil {
			t.Fatal(err)
		}
		erasing := *c
		erasing.Source.JetStream = onOpen{c.JetStream, func() {
			looks++
			if looks == storeAt {
				if _, err := publisher.Publish(t.Context(), event); err != nil {
					t.Error(err)
				}
			}
			if looks == deleteAt {
				if err := eraser.Erase(t.Context(), publish.Copy{Kind: raw.Kind, Subject: raw.Subject("versive"), Sequence: ack.Sequence}); err != nil {
					t.Error(err)
				}
			}
		}}
		e := erasure.New(&erasing, erasure.Target{Interview: interview})
		found, err := e.Find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Run(t.Context(), found, func() {}); err != nil {
			t.Fatal(err)
		}
		if files := filesWith(t, s.DataDir, planted); len(files) > 0 {
			t.Fatalf("stored before look %d and deleted before look %d: the marker is in %v", storeAt, deleteAt, files)
		}
		return looks
	}
	// A requeue that comes after the last look has found the tombstones.
	for storeAt := 1; attempt(storeAt, storeAt) >= storeAt; storeAt++ {
		for deleteAt := storeAt + 1; attempt(storeAt, deleteAt) >= deleteAt; deleteAt++ {
		}
	}
}
