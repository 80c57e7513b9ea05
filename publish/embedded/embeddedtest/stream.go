// Package embeddedtest runs streams in the test process, for tests of their
// consumers.
//
//	func TestReports(t *testing.T) {
//		stream := embeddedtest.Start(t)
//		stream.Publish("msg_1", schema.InterviewCompleted{
//			Type:      "interview.completed",
//			Interview: schema.Interview{ID: "interview_1", Transcript: "…"},
//			Study:     schema.Study{ID: "study_123"},
//		})
//		// Run the consumer with stream.URL or stream.JetStream.
//		embeddedtest.Await(t, "the report is written", func() bool { … })
//
//		stream.Erase("msg_1")
//		embeddedtest.Await(t, "the report is deleted", func() bool { … })
//	}
//
// Its part of the promise (see package ingest): a consumer gets from it what it
// gets in production. The broker is the one of an ingress, and events are
// normalized, stored and erased by the code that an ingress runs.
//
// Only tests import this package.
package embeddedtest

import (
	"context"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// A Stream is the event stream VERSIVE, with subjects below versive, on a broker
// of its own. Its methods must be called by the goroutine of the test.
type Stream struct {
	URL       string              // of the broker
	JetStream jetstream.JetStream // a connection to the broker

	t         testing.TB
	publisher *publish.Publisher
	copies    map[string]publish.Copy // by svix-id
}

// Start starts a broker with an empty stream. Both end with the test; the data is
// in a temporary directory.
func Start(t testing.TB) *Stream {
	t.Helper()
	broker := StartBroker(t, embedded.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	publisher, err := publish.Open(ctx, publish.Config{
		URL:          broker.URL(),
		Stream:       "VERSIVE",
		Subject:      "versive",
		Replicas:     1,
		DedupeWindow: 48 * time.Hour,
		Timeout:      Timeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	return &Stream{
		URL:       broker.URL(),
		JetStream: Connect(t, broker.URL()),
		t:         t,
		publisher: publisher,
		copies:    map[string]publish.Copy{},
	}
}

// Publish stores the event that an ingress makes of a webhook. The id is its svix-id,
// the idempotency key: publishing it again, as when the vendor resends an event, stores
// nothing, and the receipt is that of a duplicate.
//
// The body of the webhook is data as JSON. Zero fields of structs are left out, so
// that a test sets only those that matter to it. A jsontext.Value is taken as it is.
// The test fails if the body is not an event; the type and the ids are required.
func (s *Stream) Publish(id string, data any) schema.Receipt {
	s.t.Helper()
	body, err := json.Marshal(data, json.OmitZeroStructFields(true))
	if err != nil {
		s.t.Fatalf("body of %s: %v", id, err)
	}
	event, err := schema.Normalize(id, body)
	if err != nil {
		s.t.Fatalf("%s is not an event: %v", id, err)
	}
	receipt, err := s.publisher.Publish(s.t.Context(), event)
	if err != nil {
		s.t.Fatalf("publishing %s: %v", id, err)
	}
	if !receipt.Duplicate {
		s.copies[id] = publish.Copy{Kind: event.Kind, Subject: event.Subject("versive"), Sequence: receipt.Sequence}
	}
	return receipt
}

// Erase erases a published event, as "versive-ingress erase" does: a tombstone takes
// its place.
func (s *Stream) Erase(id string) {
	s.t.Helper()
	c, ok := s.copies[id]
	if !ok {
		s.t.Fatalf("%s was not published", id)
	}
	eraser := publish.Eraser{JetStream: s.JetStream, Stream: "VERSIVE"}
	if err := eraser.Erase(s.t.Context(), c); err != nil {
		s.t.Fatalf("erasing %s: %v", id, err)
	}
}
