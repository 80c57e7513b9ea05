package publish_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	broker, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Stop()

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
	defer publisher.Close()

	event, err := schema.Normalize("msg_1", []byte(`{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":"s"}}`))
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		receipt, err := publisher.Publish(context.Background(), event)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%+v\n", receipt)
	}
	// Output:
	// {Stream:VERSIVE Sequence:1 Duplicate:false Erased:false}
	// {Stream:VERSIVE Sequence:1 Duplicate:true Erased:false}
}
