// Command subscribe reads completed interviews with versive-ingress/subscribe.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	options := []nats.Option{nats.MaxReconnects(-1), nats.Timeout(10 * time.Second)}
	if file := os.Getenv("NATS_NKEY"); file != "" {
		nkey, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			return err
		}
		options = append(options, nkey)
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), options...) // empty: nats://127.0.0.1:4222
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	source := subscribe.Source{JetStream: js}
	return source.Consume(ctx, subscribe.Consumer{
		Durable: "reports",
		Filter:  schema.Filter{Type: "interview.completed", StudyID: "study_123"},
		Event:   subscribe.Typed(completed),
		Erasure: erased,
		Logger:  slog.Default(),
	})
}

func completed(_ context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
	// In one transaction: keep m.ID, and do the work; if the id was there already, do nothing.
	fmt.Println("completed", m.ID, data.Study.ID, data.Interview.ID, len(data.Interview.Conversation))
	return nil
}

func erased(_ context.Context, _ schema.Subject, m subscribe.Message) error {
	// In one transaction: keep m.ID, and delete what you made of the event.
	fmt.Println("erased", m.ID)
	return nil
}
