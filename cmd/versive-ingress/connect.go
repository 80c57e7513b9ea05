package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/subscribe"
)

// A connection is that of a command that works on the stream from outside of
// the ingress.
type connection struct {
	settings config.Settings
	nc       *nats.Conn
	js       jetstream.JetStream
	source   subscribe.Source
}

// dial reads the settings that serve reads and connects to the same
// broker. The connection lives through the loss of the broker and ends with
// ctx, or by close.
func dial(ctx context.Context, name string) (*connection, error) {
	s, err := config.Read()
	if err != nil {
		return nil, err
	}
	if err := s.CheckBroker(); err != nil {
		return nil, err
	}
	if err := s.CheckFiles(); err != nil {
		return nil, err
	}
	return dialTo(ctx, s, name)
}

// dialTo connects to the broker of checked settings.
func dialTo(ctx context.Context, s config.Settings, name string) (*connection, error) {
	nc, err := connectTo(s, name,
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500*time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, nc.Close) // or a question to a broker that is away would hold up Ctrl-C
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &connection{s, nc, js, subscribe.Source{JetStream: js, Stream: s.Stream, Subject: s.Subject}}, nil
}

func (c *connection) close() { c.nc.Close() }

// connectTo opens a connection to the broker, with the options and those that
// the settings ask for.
func connectTo(s config.Settings, name string, options ...nats.Option) (*nats.Conn, error) {
	options = append(options, natsOptions(s)...)
	options = append(options,
		nats.Name("versive-ingress "+name),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // callers report what fails
	)
	nc, err := nats.Connect(brokerURL(s), options...)
	if err != nil {
		return nil, fmt.Errorf("no broker at %s takes the connection: %w; the embedded one is there while serve runs, another one is set by INGRESS_NATS_URL", publish.Addresses(brokerURL(s)), err)
	}
	return nc, nil
}

// brokerURL returns where a client finds the broker: the store of an embedded
// one is locked by the process that serves it, but it listens.
func brokerURL(s config.Settings) string {
	if s.NATSURL != "" {
		return s.NATSURL
	}
	address, _ := config.Local(cmp.Or(s.NATSListen, embedded.DefaultListen))
	return "nats://" + address
}
