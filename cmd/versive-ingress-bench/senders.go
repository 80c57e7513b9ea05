package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/schema"
)

// open returns n senders to the system: HTTP connections to its service, or
// without one publishers of the given batch. No answer is waited for after
// until.
func (sys *system) open(ctx context.Context, n, batch int, until time.Time) ([]sender, func(), error) {
	if sys.service != nil {
		senders, closeAll := posts(sys.address, n, until)
		return senders, closeAll, nil
	}
	// One connection for all, as a service would have it.
	js, closeConn, err := connect(sys.nats)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	senders := make([]sender, n)
	for i := range senders {
		senders[i] = func(events []*event) (bool, error) {
			err := publishBare(ctx, js, events)
			return err == nil, err
		}
	}
	return senders, func() { cancel(); closeConn() }, nil
}

func posts(address string, n int, until time.Time) ([]sender, func()) {
	clients := make([]*client, n)
	senders := make([]sender, n)
	for i := range clients {
		c := &client{address: address, until: until}
		clients[i] = c
		senders[i] = func(events []*event) (bool, error) {
			status, err := c.do(events[0])
			return err == nil && 200 <= status && status < 300, err
		}
	}
	return senders, func() {
		for _, c := range clients {
			c.close()
		}
	}
}

// publishBare publishes events as a client of JetStream would that knows how
// to make them unique, and returns when they are confirmed.
func publishBare(ctx context.Context, js jetstream.JetStream, events []*event) error {
	messages := make([]*nats.Msg, len(events))
	for i, e := range events {
		messages[i] = &nats.Msg{
			Subject: "bare." + e.id,
			Header:  nats.Header{jetstream.MsgIDHeader: {e.id}},
			Data:    e.body,
		}
	}
	if len(messages) == 1 {
		_, err := js.PublishMsg(ctx, messages[0])
		return err
	}
	return publishBatch(ctx, js, messages)
}

// publishBatch waits for one answer, that of the commit: the library's default
// is to wait for the first message's as well, which costs a round trip.
func publishBatch(ctx context.Context, js jetstream.JetStream, messages []*nats.Msg) error {
	_, err := jetstreamext.PublishMsgBatch(ctx, js, messages, jetstreamext.BatchFlowControl{AckTimeout: 10 * time.Second})
	return err
}

const (
	prefillSize  = 2 << 10 // bytes of a body: a million must fit many a disk
	prefillBatch = 500
)

// prefill stores n events in the ingress's stream as the ingress would, in
// batches, and adds them to what s has made.
func prefill(ctx context.Context, sys *system, s *source, n int) error {
	js, closeConn, err := connect(sys.nats)
	if err != nil {
		return err
	}
	defer closeConn()
	old, err := newSource(s.secret, prefillSize)
	if err != nil {
		return err
	}
	events := old.next(n)
	s.events = append(s.events, events...)
	for len(events) > 0 {
		batch := events[:min(prefillBatch, len(events))]
		events = events[len(batch):]
		messages := make([]*nats.Msg, len(batch))
		for i, e := range batch {
			m, err := schema.Normalize(e.id, e.body)
			if err != nil {
				return fmt.Errorf("prefilling: %w", err)
			}
			header := nats.Header(m.Header)
			header.Set(jetstream.MsgIDHeader, m.ID)
			header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
			messages[i] = &nats.Msg{Subject: m.Subject("versive"), Header: header, Data: m.Data}
			e.accepted.Store(true)
		}
		if err := publishBatch(ctx, js, messages); err != nil {
			return fmt.Errorf("prefilling: %w", err)
		}
	}
	return nil
}
