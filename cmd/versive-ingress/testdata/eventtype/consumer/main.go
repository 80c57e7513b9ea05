// Command consumer prints study.created events, decoded, and their erasures.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	err = subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
		Durable: "studies",
		Filter:  schema.Filter{Type: "study.created"},
		Event: subscribe.Typed(func(_ context.Context, data schema.StudyCreated, m subscribe.Message) error {
			fmt.Println("created", m.ID, data.Study.ID, data.Study.CreatedAt.Year(), data.Study.Questions[0].Author.Role)
			return nil
		}),
		Erasure: func(_ context.Context, erased schema.Subject, m subscribe.Message) error {
			fmt.Println("erased", m.ID, erased.StudyID, erased.InterviewID)
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
}
