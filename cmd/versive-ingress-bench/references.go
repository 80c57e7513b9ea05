package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	svix "github.com/svix/svix-webhooks/go"
)

// references are the programs beside the ingress, by name. The bench starts
// itself with one of these as a hidden command, so that each has a process whose
// CPU time and memory can be measured.
var references = map[string]func(context.Context, []string) error{
	"plain":  servePlain,
	"naive":  serveNaive,
	"broker": serveBroker,
}

// servePlain runs the least that a webhook handler can do: it reads the body and
// answers 204. Its argument is the address to listen on.
func servePlain(ctx context.Context, args []string) error {
	return serveHTTP(ctx, args[0], func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
}

// serveNaive runs the handler that one writes first: it verifies the signature
// and publishes one message a request. It does not parse the body, and duplicates
// are detected only within the stream's duplicate window. Its arguments are the
// address to listen on, the secret and the broker's URL.
func serveNaive(ctx context.Context, args []string) error {
	js, err := connect(args[2])
	if err != nil {
		return err
	}
	defer js.Conn().Close()
	webhook, err := svix.NewWebhook(args[1])
	if err != nil {
		return err
	}
	return serveHTTP(ctx, args[0], func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "reading the body", http.StatusBadRequest)
			return
		}
		if err := webhook.Verify(body, r.Header); err != nil {
			http.Error(w, "signature", http.StatusUnauthorized)
			return
		}
		message := &nats.Msg{
			Subject: "bench.naive",
			Header:  nats.Header{jetstream.MsgIDHeader: {r.Header.Get("svix-id")}},
			Data:    body,
		}
		if _, err := js.PublishMsg(r.Context(), message); err != nil {
			http.Error(w, "publishing", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func serveHTTP(ctx context.Context, listen string, handler http.HandlerFunc) error {
	s := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveBroker runs a nats-server: the code of the official program, without a
// binary to download. Its argument is a configuration file.
func serveBroker(ctx context.Context, args []string) error {
	options, err := server.ProcessConfigFile(args[0])
	if err != nil {
		return err
	}
	options.NoSigs = true // ctx ends it
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// connect returns a JetStream client with a connection of its own, to be closed.
func connect(url string) (jetstream.JetStream, error) {
	nc, err := nats.Connect(url, nats.Timeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connecting to the broker at %s: %w", url, err)
	}
	return jetstream.New(nc)
}
