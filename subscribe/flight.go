package subscribe

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A flight is a message that has arrived and is not settled yet.
type flight struct {
	msg     jetstream.Msg
	m       Message // the same
	event   Message // to handle: m, or that of the dead letter that m requeues
	arrived time.Time

	// started is set before the handler is called, and returned when the message is given
	// back without that. Both are guarded by dispatcher.mu.
	started, returned bool

	// again is the event as it was delivered after the consumer was rewound, or nil. It
	// is handled again, because the rewind may be to repeat what the handler has done.
	// It is guarded by dispatcher.mu.
	again *flight

	// ctx is that of the acknowledgement. It ends with errRewound when again is set: the
	// broker does not reply to the acknowledgement of a delivery from before the rewind.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

var errRewound = errors.New("the consumer was rewound")

// begin queues a message that has arrived. If its event is in flight, it is a redelivery,
// because the broker was away, or was delivered after a rewind, which starts to count
// deliveries anew.
func (d *dispatcher) begin(ctx context.Context, msg jetstream.Msg) {
	f := &flight{msg: msg, m: newMessage(msg), arrived: time.Now()}
	if f.m.Sequence == 0 {
		return
	}
	f.event = f.m
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = int(f.m.Pending)
	if f.m.Deliveries <= d.records[f.m.Sequence].Deliveries { // of before a rewind
		delete(d.records, f.m.Sequence)
	}
	switch before := d.inFlight[f.m.Sequence]; {
	case before == nil:
		d.handling.Add(1)
		d.bytes += len(f.m.Data)
		d.inFlight[f.m.Sequence] = f
		d.queue <- f
	case f.m.Deliveries == 1:
		before.again = f
		before.cancel(errRewound)
	default:
		f.cancel(nil)
	}
}

// end takes a message out of flight, or queues it again after a rewind.
func (d *dispatcher) end(f *flight) {
	f.cancel(nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.again != nil {
		d.inFlight[f.m.Sequence] = f.again
		d.queue <- f.again
		return
	}
	delete(d.inFlight, f.m.Sequence)
	d.bytes -= len(f.m.Data)
	if d.room() > 0 {
		select {
		case d.freed <- struct{}{}:
		default: // it was signalled before
		}
	}
	d.handling.Done()
}

// start reports whether the handler may be called for a message: it was not given back.
func (d *dispatcher) start(f *flight) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.started = true
	return !f.returned
}

// review returns the messages in flight to keep, and those to give back, which were
// fetched ahead and have waited for AckWait: the handlers have become slow since, and
// another process may be idle.
func (d *dispatcher) review() (kept, returned []*flight) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.inFlight {
		if !f.returned {
			kept = append(kept, f)
		}
	}
	ahead := len(kept) - d.cfg.Concurrency
	kept = slices.DeleteFunc(kept, func(f *flight) bool {
		if f.returned = ahead > 0 && !f.started && time.Since(f.arrived) > d.cfg.AckWait; f.returned {
			ahead--
			returned = append(returned, f)
			d.pace = d.cfg.AckWait // so that none are fetched ahead, until handlers are fast again
		}
		return f.returned
	})
	return kept, returned
}
