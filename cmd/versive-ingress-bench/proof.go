package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// prove settles the events, reads the stream back and compares. It returns how many
// events were answered 2xx, and an error unless the stream holds each of them once
// and nothing else.
func (sys *system) prove(s *source) (accepted int, err error) {
	if err := sys.settle(s); err != nil {
		return 0, err
	}
	stored, err := readIDs(sys.ctx, sys.js, sys.stream)
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", sys.stream, err)
	}
	return compare(s.events, stored)
}

// compare compares events with the ids in the stream and how often each is there.
func compare(events []*event, stored map[string]int) (accepted int, err error) {
	missing, doubled := 0, 0
	for _, e := range events {
		if e.accepted {
			accepted++
			if stored[e.id] == 0 {
				missing++
			}
		}
	}
	for _, times := range stored {
		if times > 1 {
			doubled++
		}
	}
	foreign := len(stored) - (accepted - missing)
	if missing+doubled+foreign > 0 {
		err = fmt.Errorf("the stream breaks the promise: %d events answered 2xx, %d of them missing; %d stored more than once; %d stored but never answered 2xx",
			accepted, missing, doubled, foreign)
	}
	return accepted, err
}

// settle resends, as the real sender does, the events that were sent and not
// accepted, until they are.
func (sys *system) settle(s *source) error {
	const attempts = 10
	l := load{senders: sys.senders(1), batch: 1, duration: time.Minute}
	var lastErr error
	for attempt := 0; ; attempt++ {
		var pending []*event
		for _, e := range s.events {
			if e.sent && !e.accepted {
				pending = append(pending, e)
			}
		}
		if len(pending) == 0 {
			return nil
		}
		if attempt == attempts || attempt > 0 && !sleep(sys.ctx, 100*time.Millisecond) {
			return errors.Join(fmt.Errorf("%d events were resent %d times and are still not accepted", len(pending), attempt), lastErr, context.Cause(sys.ctx))
		}
		s.sign(pending)
		lastErr = l.run(sys.ctx, pending).lastErr
	}
}

// readIDs reads a whole stream within five minutes. It returns the message ids in it
// and how often each is there. Only headers cross the wire.
func readIDs(ctx context.Context, js jetstream.JetStream, stream string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	left := s.CachedInfo().State.Msgs
	ids := make(map[string]int, left)
	consumer, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	for ; left > 0; left-- {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("%d messages before its end: %w", left, err)
		}
		ids[message.Headers().Get(jetstream.MsgIDHeader)]++
	}
	return ids, nil
}
