package replay

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// The last confirmations may take as long as the others.
func TestSlowEnd(t *testing.T) {
	t.Parallel()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	nc, err := nats.Connect(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE", Subjects: []string{"versive.>"}}); err != nil {
		t.Fatal(err)
	}
	const events = 10
	for n := range events {
		event, err := schema.Normalize(fmt.Sprint("msg_", n), []byte(`{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":"s"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: event.Subject("versive"), Header: event.Header, Data: event.Data}); err != nil {
			t.Fatal(err)
		}
	}
	r := &replay{conn: &broker.Connection{Source: subscribe.Source{JetStream: js}}, progress: terminal.NewProgress(io.Discard, false)}
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
