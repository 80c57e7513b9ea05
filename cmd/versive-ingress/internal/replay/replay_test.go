package replay

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/subscribe"
)

// The last confirmations may take as long as the others.
func TestSlowEnd(t *testing.T) {
	t.Parallel()
	stream := embeddedtest.Start(t)
	const events = 10
	for n := range events {
		stream.Publish(fmt.Sprint("msg_", n), jsontext.Value(`{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":"s"}}`))
	}
	r := &replay{conn: &broker.Connection{Source: subscribe.Source{JetStream: stream.JetStream}}, progress: terminal.NewProgress(io.Discard, false)}
	r.target = &patientTarget{delivered: r.delivered}
	if err := r.run(t.Context()); err != nil || r.Done.Events != events {
		t.Errorf("delivered %v: %v", r.Done, err)
	}
}

// A patientTarget confirms nothing before a deadline.
type patientTarget struct {
	waiting   []subscribe.Message
	delivered onDelivered
}

func (t *patientTarget) deliver(_ context.Context, m subscribe.Message) error {
	t.waiting = append(t.waiting, m)
	return nil
}

func (t *patientTarget) flush(ctx context.Context) error {
	if _, limited := ctx.Deadline(); limited {
		return context.DeadlineExceeded
	}
	for _, m := range t.waiting {
		t.delivered(m, false)
	}
	t.waiting = nil
	return nil
}

func (t *patientTarget) close() {}
