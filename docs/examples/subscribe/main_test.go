package main

import (
	"context"
	"testing"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

func TestRun(t *testing.T) {
	stream := embeddedtest.Start(t)
	t.Setenv("NATS_URL", stream.URL)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()

	stream.Publish("msg_1", schema.InterviewCompleted{
		Type:      "interview.completed",
		Interview: schema.Interview{ID: "interview_1", Conversation: []schema.Turn{{Role: "user", Content: "Tea."}}},
		Study:     schema.Study{ID: "study_123"},
	})
	// acknowledged reports whether run has acknowledged all messages up to a sequence.
	acknowledged := func(sequence uint64) func() bool {
		return func() bool {
			consumer, err := stream.JetStream.Consumer(t.Context(), "VERSIVE", "reports")
			return err == nil && consumer.CachedInfo().AckFloor.Stream >= sequence
		}
	}
	embeddedtest.Await(t, "the event is acknowledged", acknowledged(1))
	// Check that the report is there, and written once.

	stream.Erase("msg_1")
	embeddedtest.Await(t, "the erasure is acknowledged", acknowledged(2))
	// Check that the report is not there any more.

	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
