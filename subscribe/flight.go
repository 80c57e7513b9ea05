package subscribe

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// A flight is an event that is being handled. Its fields are guarded by dispatcher.mu.
type flight struct {
	// again is the event as it was delivered after the consumer was rewound, or nil. It
	// is handled again, because the rewind may be to repeat what the handler has done.
	again jetstream.Msg

	// rewound ends when again is set. The broker does not reply to the acknowledgement
	// of a delivery from before the rewind.
	rewound context.Context
	end     context.CancelFunc
}

func newFlight() *flight {
	var f flight
	f.rewound, f.end = context.WithCancel(context.Background())
	return &f
}

// begin reports whether a message is to be handled now. If its event is in flight, it is
// a redelivery, because the broker was away, or was delivered after a rewind, which
// starts to count deliveries anew.
func (d *dispatcher) begin(msg jetstream.Msg, m Message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.Deliveries <= d.records[m.Sequence].Deliveries { // of before a rewind
		delete(d.records, m.Sequence)
	}
	f := d.inFlight[m.Sequence]
	switch {
	case f == nil:
		d.inFlight[m.Sequence] = newFlight()
		return true
	case m.Deliveries == 1:
		f.again = msg
		f.end()
	}
	return false
}

// end returns the message with which an event is to be handled again, or nil if it is no
// longer in flight.
func (d *dispatcher) end(sequence uint64) jetstream.Msg {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.inFlight[sequence]
	f.end()
	if f.again == nil {
		delete(d.inFlight, sequence)
	} else {
		d.inFlight[sequence] = newFlight()
	}
	return f.again
}

// rewound returns a context that ends when a message in flight is delivered after a
// rewind.
func (d *dispatcher) rewound(sequence uint64) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inFlight[sequence].rewound
}
