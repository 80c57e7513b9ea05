package subscribe_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// exampleStream fills a stream with two events and returns how to read it.
func exampleStream() (js jetstream.JetStream, end func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	broker, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	publisher, err := publish.Open(context.Background(), publish.Config{
		Options:      []nats.Option{nats.InProcessServer(broker)},
		Stream:       "VERSIVE",
		Subject:      "versive",
		Replicas:     1,
		DedupeWindow: 48 * time.Hour,
		Timeout:      8 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 2 {
		event, err := schema.Normalize(fmt.Sprintf("msg_%d", i), fmt.Appendf(nil,
			`{"event_type":"interview.completed","interview":{"id":"interview_%d"},"study":{"id":"study_123"}}`, i))
		if err != nil {
			log.Fatal(err)
		}
		if _, err := publisher.Publish(context.Background(), event); err != nil {
			log.Fatal(err)
		}
	}
	nc, err := nats.Connect(broker.URL(), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	if js, err = jetstream.New(nc); err != nil {
		log.Fatal(err)
	}
	return js, func() {
		nc.Close()
		publisher.Close()
		broker.Stop()
		os.RemoveAll(dir)
	}
}

func ExampleSource_Consume() {
	js, end := exampleStream()
	defer end()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	source := subscribe.Source{JetStream: js}
	err := source.Consume(ctx, subscribe.Consumer{
		Durable: "reports",
		Filter:  schema.Filter{Type: "interview.completed", StudyID: "study_123"},
		Event: func(_ context.Context, event schema.Event, m subscribe.Message) error {
			fmt.Println(event.Type, event.InterviewID)
			if m.Sequence == 2 { // an example ends; a service does not
				stop()
			}
			return nil
		},
		Erasure: func(_ context.Context, erased schema.Subject, _ subscribe.Message) error {
			fmt.Println("erased:", erased.InterviewID)
			return nil
		},
	})
	fmt.Println(err)
	// Output:
	// interview.completed interview_0
	// interview.completed interview_1
	// <nil>
}

func ExampleSource_Range() {
	js, end := exampleStream()
	defer end()

	source := subscribe.Source{JetStream: js}
	selection := subscribe.Selection{Filter: schema.Filter{InterviewID: "interview_1"}}
	for m, err := range source.Range(context.Background(), selection) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Sequence, m.ID, m.Subject)
	}
	// Output:
	// 2 msg_1 versive.interview.completed.study_123.interview_1.msg_1
}
