package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A proof compares what was answered 2xx with what is in the stream.
type proof struct {
	Accepted int `json:"accepted"` // events that were answered 2xx
	Stored   int `json:"stored"`   // messages in the stream
	Missing  int `json:"missing"`  // accepted, but not stored
	Doubled  int `json:"doubled"`  // stored more than once
	Foreign  int `json:"foreign"`  // stored, but never accepted
}

// err returns nil if the promise was held.
func (p proof) err() error {
	if p.Missing == 0 && p.Doubled == 0 && p.Foreign == 0 {
		return nil
	}
	return fmt.Errorf("the stream is not what was promised: %d events answered 2xx, %d messages stored; missing %d, stored twice %d, stored but never answered 2xx %d",
		p.Accepted, p.Stored, p.Missing, p.Doubled, p.Foreign)
}

// prove compares events with the ids in the stream, each with how often it is
// there.
func prove(events []*event, stored map[string]int) proof {
	var p proof
	accepted := make(map[string]bool, len(events))
	for _, e := range events {
		if !e.accepted.Load() {
			continue
		}
		accepted[e.id] = true
		if stored[e.id] == 0 {
			p.Missing++
		}
	}
	p.Accepted = len(accepted)
	for id, times := range stored {
		p.Stored += times
		if times > 1 {
			p.Doubled++
		}
		if !accepted[id] {
			p.Foreign++
		}
	}
	return p
}

// readTimeout bounds the reading of a whole stream.
const readTimeout = 5 * time.Minute

// readIDs reads a whole stream and returns the ids in it, each with how often
// it is there. Only headers cross the wire; the broker loads every message all
// the same.
func readIDs(ctx context.Context, js jetstream.JetStream, stream string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	left := s.CachedInfo().State.Msgs
	ids := make(map[string]int, left)
	if left == 0 {
		return ids, nil
	}
	consumer, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	defer messages.Stop()
	for ; left > 0; left-- {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("reading stream %s, %d messages before its end: %w", stream, left, err)
		}
		ids[message.Headers().Get(jetstream.MsgIDHeader)]++
	}
	return ids, nil
}

// connect returns JetStream at url, and what ends the connection.
func connect(url string) (jetstream.JetStream, func(), error) {
	nc, err := nats.Connect(url, nats.Timeout(5*time.Second))
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the broker at %s: %w", url, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return js, nc.Close, nil
}
