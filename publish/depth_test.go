package publish_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// The depth follows what is stored, deleted and erased; a tombstone is
// nothing to look at.
func TestDepth(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := connect(t, broker.URL())
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	depth := func(kind schema.Kind, want int64) {
		t.Helper()
		await(t, fmt.Sprintf("depth %d, which is %d", want, p.Depth(kind)), func() bool { return p.Depth(kind) == want })
	}

	var copies []publish.Copy
	for i := range 4 {
		m := schema.Quarantine(fmt.Sprint("msg_", i), []byte("{"), &schema.Error{Reason: schema.Malformed}, nil)
		receipt, err := p.Publish(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, publish.Copy{Kind: m.Kind, Subject: m.Subject("versive"), Sequence: receipt.Sequence})
	}
	depth(schema.KindQuarantine, 4)
	if err := eraser.Bury(t.Context(), schema.KindQuarantine, copies[0].Subject); err != nil { // not yet deleted
		t.Fatal(err)
	}
	if err := eraser.Erase(t.Context(), copies[1]); err != nil {
		t.Fatal(err)
	}
	depth(schema.KindQuarantine, 3)
	again := openPublisher(t, config(broker.URL())) // it has seen nothing of that
	await(t, "depth 3 after a restart", func() bool { return again.Depth(schema.KindQuarantine) == 3 })
	for _, c := range copies {
		if err := eraser.Delete(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	depth(schema.KindQuarantine, 0)

	depth(schema.KindDead, 0)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := js.Publish(t.Context(), fmt.Sprint("versive-dead.reports.msg_", i), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	depth(schema.KindDead, 2)
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindDead, Subject: "versive-dead.reports.msg_0", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	depth(schema.KindDead, 1)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	depth(schema.KindDead, 0)
}
