package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	svix "github.com/svix/svix-webhooks/go"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// references are programs that the bench measures beside the ingress, by name. It
// starts itself with the name as an argument, so that each has a process whose usage
// can be measured.
var references = map[string]func(args []string) error{
	"plain":  servePlain,
	"naive":  serveNaive,
	"broker": serveBroker,
}

// servePlain runs the least that a webhook handler can do: it reads the body and
// answers 204. Its argument is the address to listen on.
func servePlain(args []string) error {
	return http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// serveNaive runs the obvious handler: it verifies the signature and publishes one
// message a request. It does not parse the body, and it detects duplicates only
// within the stream's duplicate window. Its arguments are the address to listen on,
// the secret and the broker's URL.
func serveNaive(args []string) error {
	js, err := connect(args[2])
	if err != nil {
		return err
	}
	webhook, err := svix.NewWebhook(args[1])
	if err != nil {
		return err
	}
	return http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(body, r.Header)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		if _, err := js.PublishMsg(r.Context(), newMessage("bench.naive", r.Header.Get("svix-id"), body)); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
}

// serveBroker runs a nats-server: the code of the official program, without a
// binary to download. Its argument is a configuration file.
func serveBroker(args []string) error {
	options, err := server.ProcessConfigFile(args[0])
	if err != nil {
		return err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return nil
}

// publish is a sender without a service: it publishes a single event, or a batch.
func (sys *system) publish(events []*event) error {
	messages := make([]*nats.Msg, len(events))
	for i, e := range events {
		messages[i] = newMessage("bench."+e.id, e.id, e.body)
	}
	if len(messages) == 1 {
		_, err := sys.js.PublishMsg(context.Background(), messages[0]) // awaits the acknowledgement for 5 s
		return err
	}
	// By default the first message is acknowledged as well as the commit.
	flow := jetstreamext.BatchFlowControl{AckTimeout: 10 * time.Second}
	_, err := jetstreamext.PublishMsgBatch(context.Background(), sys.js, messages, flow)
	return err
}

func newMessage(subject, id string, body []byte) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{jetstream.MsgIDHeader: {id}}, Data: body}
}

// connect returns a JetStream client with a connection of its own, to be closed.
func connect(url string) (jetstream.JetStream, error) {
	nc, err := nats.Connect(url, nats.Timeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connecting to the broker at %s: %w", url, err)
	}
	return jetstream.New(nc)
}
