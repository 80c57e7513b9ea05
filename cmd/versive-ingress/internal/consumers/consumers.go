// Package consumers lists, rewinds and deletes the durable consumers of events.
package consumers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// Consumers are the durable consumers of the event stream.
type Consumers struct {
	*broker.Connection
	stream jetstream.Stream
}

// Open connects to the broker.
func Open(ctx context.Context) (*Consumers, error) {
	c, err := broker.Dial(ctx, "consumers")
	if err != nil {
		return nil, err
	}
	stream, err := publish.OpenStream(ctx, c.JetStream, c.Settings.Stream)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Consumers{c, stream}, nil
}

// List returns all consumers by name.
func (c *Consumers) List(ctx context.Context) ([]publish.ConsumerState, error) {
	return publish.ReadConsumers(ctx, c.stream, math.MaxInt)
}

// Find returns the consumer of a name.
func (c *Consumers) Find(ctx context.Context, name string) (publish.ConsumerState, error) {
	list, err := c.List(ctx)
	if err != nil {
		return publish.ConsumerState{}, err
	}
	if i := slices.IndexFunc(list, func(s publish.ConsumerState) bool { return s.Name == name }); i >= 0 {
		return list[i], nil
	}
	err = fmt.Errorf("stream %s has no durable consumer %q; versive-ingress consumers lists them", c.Settings.Stream, name)
	if i := slices.IndexFunc(list, func(s publish.ConsumerState) bool { return strings.EqualFold(s.Name, name) }); i >= 0 {
		err = fmt.Errorf("%w: names are case-sensitive, and there is %s", err, list[i].Name)
	}
	return publish.ConsumerState{}, err
}

// Delete deletes a consumer with its position. It first deletes the durable consumer by which
// that reads requeued dead letters, so that an interrupted deletion can be repeated.
func (c *Consumers) Delete(ctx context.Context, name string) error {
	err := c.JetStream.DeleteConsumer(ctx, schema.KindDead.Stream(c.Settings.Stream), name)
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		err = c.stream.DeleteConsumer(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("deleting consumer %s: %w", name, err)
	}
	return nil
}
