package subscribe_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// TestTyped: a typed handler gets the data of its type. An event of another
// type is a permanent failure.
func TestTyped(t *testing.T) {
	t.Parallel()
	m, err := schema.Normalize("msg_1", []byte(`{"event_type":"interview.completed","interview":{"id":"i","transcript":"hello"},"study":{"id":"s"}}`))
	if err != nil {
		t.Fatal(err)
	}
	event, err := schema.Decode(m.Header, m.Data)
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	handle := subscribe.Typed(func(_ context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
		if data.Interview.Transcript != "hello" || m.ID != "msg_1" {
			t.Errorf("got %+v of %s", data, m.ID)
		}
		return failed
	})
	if err := handle(t.Context(), event, subscribe.Message{ID: "msg_1"}); err != failed {
		t.Errorf("got %v, want the handler's error", err)
	}
	event.Type = "study.created"
	err = handle(t.Context(), event, subscribe.Message{ID: "msg_1"})
	if !errors.Is(err, subscribe.ErrPermanent) || !strings.Contains(err.Error(), "study.created") {
		t.Errorf("got %v, want a permanent failure that names the type", err)
	}
}
