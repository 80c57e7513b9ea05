// Command natsgo reads completed interviews without a package of versive-ingress.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	// This fails if the consumer exists with another filter, with which it would skip events.
	consumer, err := js.CreateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{
		Durable:       "reports-go",
		FilterSubject: "versive.interview.completed.>",
		AckPolicy:     jetstream.AckExplicitPolicy,
	})
	if err != nil {
		return err
	}
	for {
		msg, err := next(ctx, consumer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := handle(msg); err != nil {
			log.Printf("%s: %v; it will be redelivered", msg.Subject(), err)
			msg.NakWithDelay(time.Minute)
		} else if err := msg.DoubleAck(context.Background()); err != nil {
			log.Printf("%s: not confirmed, so it may be redelivered: %v", msg.Subject(), err)
		}
	}
}

// next waits for a message. It returns an error if no message can arrive any more.
// One at a time: the ack_wait of a message begins when it is fetched.
func next(ctx context.Context, consumer jetstream.Consumer) (jetstream.Msg, error) {
	for {
		msg, err := consumer.Next(jetstream.FetchContext(ctx)) // waits for up to 30 s
		if err == nil || ctx.Err() != nil {
			return msg, err
		}
		if !errors.Is(err, nats.ErrTimeout) {
			log.Printf("nothing is delivered: %v", err)
		}
		_, err = consumer.Info(ctx)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrConnectionClosed) {
			return nil, err
		}
		time.Sleep(time.Second)
	}
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
			ID           string `json:"id"`
			Conversation []struct {
				Role    string `json:"role"`
				Content string `json:"content"`
			} `json:"parsed_conversation_json"`
		} `json:"interview"`
		Study struct {
			ID string `json:"id"`
		} `json:"study"`
	}
	// Not encoding/json, which ignores case: an unknown member "ID" would replace "id".
	// Texts may have half of a surrogate pair, which becomes U+FFFD.
	if err := json.Unmarshal(msg.Data(), &event, jsontext.AllowInvalidUTF8(true)); err != nil {
		return err
	}
	// In one transaction: keep the id, and do the work; if the id was there already, do nothing.
	fmt.Println("completed", id, event.Study.ID, event.Interview.ID, len(event.Interview.Conversation))
	return nil
}
