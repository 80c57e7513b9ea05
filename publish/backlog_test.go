package publish_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// The backlog changes as messages are stored, deleted and erased. It does not include
// tombstones.
func TestBacklog(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	registry := prometheus.NewRegistry()
	cfg := config(broker.URL())
	cfg.Metrics = registry
	p := openPublisher(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	backlog := func(kind schema.Kind, want float64) {
		t.Helper()
		awaitBacklog(t, registry, kind, want)
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
	backlog(schema.KindQuarantine, 4)
	if err := eraser.PutTombstone(t.Context(), schema.KindQuarantine, copies[0].Subject); err != nil { // whose copy is not deleted yet
		t.Fatal(err)
	}
	if err := eraser.Erase(t.Context(), copies[1]); err != nil {
		t.Fatal(err)
	}
	backlog(schema.KindQuarantine, 3)
	fresh := prometheus.NewRegistry() // of a publisher that starts afterwards
	cfg.Metrics = fresh
	openPublisher(t, cfg)
	awaitBacklog(t, fresh, schema.KindQuarantine, 3)
	for _, c := range copies {
		if err := eraser.Delete(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	backlog(schema.KindQuarantine, 0)

	backlog(schema.KindDead, 0)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := js.Publish(t.Context(), fmt.Sprint("versive-dead.reports.msg_", i), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	request := schema.Requeue("reports", "msg_0", 1)
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: request.Subject("versive"), Header: request.Header}); err != nil {
		t.Fatal(err)
	}
	backlog(schema.KindDead, 2)
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindDead, Subject: "versive-dead.reports.msg_0", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	backlog(schema.KindDead, 1)
	if err := eraser.Delete(t.Context(), publish.Copy{Kind: schema.KindDead, Sequence: 3}); err != nil { // the request was handled
		t.Fatal(err)
	}
	// A dead-lettered tombstone also waits for an operator.
	tombstone, err := schema.Tombstone(schema.KindEvent, "versive.interview.completed.s.i.msg_7", 7)
	if err != nil {
		t.Fatal(err)
	}
	letter := schema.DeadLetter(schema.Dead{Consumer: "reports", Reason: "no", ID: "msg_7", Sequence: 8}, tombstone.Header, nil)
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: letter.Subject("versive"), Header: letter.Header}); err != nil {
		t.Fatal(err)
	}
	backlog(schema.KindDead, 2)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	backlog(schema.KindDead, 0)
}

func awaitBacklog(t *testing.T, registry *prometheus.Registry, kind schema.Kind, want float64) {
	t.Helper()
	name := map[schema.Kind]string{schema.KindQuarantine: "quarantine_events", schema.KindDead: "dead_letter_events"}[kind]
	embeddedtest.Await(t, fmt.Sprintf("%s %v", name, want), func() bool {
		got, ok := gather(t, registry)[name]
		return ok && got == want
	})
}

// Dead letters are not kept for longer than events, even if their stream was created
// with another maximum age.
func TestDeadLettersAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct{ events, dead, want time.Duration }{
		"kept indefinitely": {90 * day, 0, 90 * day},
		"kept for longer":   {90 * day, 91 * day, 90 * day},
		"kept for less":     {90 * day, 30 * day, 30 * day},
		"as the events":     {0, 0, 0},
		"below the window":  {time.Minute, day, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			js := embeddedtest.Connect(t, broker.URL())
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, MaxAge: test.dead}); err != nil {
				t.Fatal(err)
			}
			cfg := config(broker.URL())
			cfg.MaxAge = test.events
			cfg.Metrics = prometheus.NewRegistry()
			openPublisher(t, cfg)
			awaitBacklog(t, cfg.Metrics.(*prometheus.Registry), schema.KindDead, 0) // it was checked
			embeddedtest.Await(t, "the wanted age", func() bool {
				stream, err := js.Stream(t.Context(), "VERSIVE_DEAD")
				return err == nil && stream.CachedInfo().Config.MaxAge == test.want
			})
		})
	}
}
