// Command natsgo reads completed interviews with nothing but nats.go.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1)) // empty: nats://127.0.0.1:4222
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{
		Durable:       "reports-go",
		FilterSubject: "versive.interview.completed.>",
		AckPolicy:     jetstream.AckExplicitPolicy,
	})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		if err := handle(msg); err != nil {
			log.Printf("%s: %v; it will be redelivered", msg.Subject(), err)
			msg.NakWithDelay(time.Minute)
			return
		}
		if err := msg.DoubleAck(context.Background()); err != nil {
			log.Printf("%s: not confirmed, so it may be redelivered: %v", msg.Subject(), err)
		}
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	consuming.Drain()
	<-consuming.Closed()
	return nil
}

func handle(msg jetstream.Msg) error {
	// The last token of the subject is the svix-id, of an event and of its tombstone.
	id, err := url.PathUnescape(msg.Subject()[strings.LastIndex(msg.Subject(), ".")+1:])
	if err != nil {
		return err
	}
	if msg.Headers().Get("Ingress-Erased") != "" {
		// In one transaction: keep the id, and delete what you made of the event.
		fmt.Println("erased", id)
		return nil
	}
	if urn := msg.Headers().Get("ce-dataschema"); urn != "urn:versive-ingress:interview.completed:1" {
		return fmt.Errorf("unknown schema %q", urn)
	}
	var event struct {
		Interview struct {
			ID           string
			Conversation []struct{ Role, Content string } `json:"parsed_conversation_json"`
		}
		Study struct{ ID string }
	}
	if err := json.Unmarshal(msg.Data(), &event); err != nil {
		return err
	}
	// In one transaction: keep the id, and do the work; if the id was there already, do nothing.
	fmt.Println("completed", id, event.Study.ID, event.Interview.ID, len(event.Interview.Conversation))
	return nil
}
