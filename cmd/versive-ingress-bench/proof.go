package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A proof compares the events that were answered 2xx with those in the stream.
type proof struct {
	accepted int // events that were answered 2xx
	stored   int // messages in the stream
	missing  int // events that were accepted but are not stored
	doubled  int // events that are stored more than once
	foreign  int // ids that are stored but were never accepted
}

// prove compares events with the ids in the stream and how often each is there.
func prove(events []*event, stored map[string]int) proof {
	var p proof
	accepted := make(map[string]bool, len(events))
	for _, e := range events {
		if !e.accepted {
			continue
		}
		accepted[e.id] = true
		if stored[e.id] == 0 {
			p.missing++
		}
	}
	p.accepted = len(accepted)
	for id, times := range stored {
		p.stored += times
		if times > 1 {
			p.doubled++
		}
		if !accepted[id] {
			p.foreign++
		}
	}
	return p
}

// settle resends, as the real sender does, what was sent and not accepted: every
// 100 ms until it is accepted, at most settleTries times.
func (sys *system) settle(ctx context.Context, s *source) error {
	const settleTries = 10
	senders := sys.senders(1, 1)
	defer closeAll(senders)
	for _, e := range s.events {
		for try := 1; e.sent && !e.accepted; try++ {
			s.sign(sys.address, []*event{e})
			var err error
			if e.accepted, err = senders[0].send([]*event{e}); e.accepted {
				break
			}
			if try == settleTries || !sleepUntil(ctx, time.Now().Add(100*time.Millisecond)) {
				return errors.Join(fmt.Errorf("event %s was resent %d times and is still not accepted", e.id, try), err, ctx.Err())
			}
		}
	}
	return nil
}

// prove settles the events, reads the stream back and compares. It returns how many
// events were answered 2xx, and an error unless the stream holds each of them once
// and nothing else.
func (sys *system) prove(ctx context.Context, s *source) (float64, error) {
	if err := sys.settle(ctx, s); err != nil {
		return 0, err
	}
	stored, err := readIDs(ctx, sys.js, sys.stream)
	if err != nil {
		return 0, fmt.Errorf("reading stream %s: %w", sys.stream, err)
	}
	p := prove(s.events, stored)
	if p.missing+p.doubled+p.foreign > 0 {
		return 0, fmt.Errorf("the stream is not what was promised: %d events answered 2xx, %d messages stored; missing %d, stored twice %d, stored but never answered 2xx %d",
			p.accepted, p.stored, p.missing, p.doubled, p.foreign)
	}
	return float64(p.accepted), nil
}

// readIDs reads a whole stream within five minutes, and returns the message ids
// in it and how often each is there. Only headers cross the wire.
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
