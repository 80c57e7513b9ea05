package subscribe

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// slack is how much later than AckWait the broker may notice that it is over.
	slack = 200 * time.Millisecond
	// takeUpTime is for how long the broker is asked for what it has to deliver
	// again. It may be less than there was: events are erased.
	takeUpTime = time.Second
)

// takeUp takes what was delivered and is not being handled, if there is an
// order to be kept: a process before this one has left it, or it was lost with
// a connection. The broker delivers it before anything new, but only when
// AckWait is over, and in the order in which it has given up waiting. So it is
// fetched as a whole and put in order.
func (d *dispatcher) takeUp(ctx, handling context.Context) error {
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := d.consumer.Info(asking)
	if err != nil {
		return d.awaitBroker(ctx, err)
	}
	d.mu.Lock()
	n := info.NumAckPending - len(d.taken)
	d.mu.Unlock()
	if n <= 0 {
		d.unsure = false
		return nil
	}
	d.Logger.Info("waiting for events that were not finished", "consumer", d.Durable, "events", n, "wait", d.AckWait)
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(d.AckWait + slack):
	}
	lost := make([]jetstream.Msg, 0, n)
	for len(lost) < n {
		before := len(lost)
		batch, err := d.consumer.Fetch(n-before, jetstream.FetchMaxWait(takeUpTime), jetstream.FetchMaxBytes(fetchBytes))
		if err == nil {
			for msg := range batch.Messages() {
				lost = append(lost, msg)
			}
			err = batch.Error()
		}
		if err != nil {
			return d.awaitBroker(ctx, err)
		}
		if len(lost) == before {
			break
		}
	}
	slices.SortFunc(lost, func(a, b jetstream.Msg) int { return cmp.Compare(sequenceOf(a), sequenceOf(b)) })
	waiting := make([]func(), len(lost)) // there may be more of them than hands
	for i, msg := range lost {
		waiting[i] = d.keepAlive(msg)
	}
	for i, msg := range lost {
		select {
		case <-d.hands:
			d.start(ctx, handling, msg)
		case <-ctx.Done():
		}
		waiting[i]()
	}
	d.unsure = false
	return nil
}

func sequenceOf(msg jetstream.Msg) uint64 {
	metadata, err := msg.Metadata()
	if err != nil {
		return 0
	}
	return metadata.Sequence.Stream
}
