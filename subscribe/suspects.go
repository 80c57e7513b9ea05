package subscribe

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// The broker counts deliveries. It does not know whether one arrived, whether a
// handler was called, and what became of that. A process knows what its own
// handlers returned, and that is all that Attempts counts. What no process can
// know is which of its events has ended it. So an event that was often delivered
// and of which nothing else is known is a suspect, and handled alone: nothing
// else can then have ended the process. That its handling has begun is recorded
// at the broker before, and that it has returned, after.
const (
	// suspectDeliveries is after how many unexplained deliveries an event is a
	// suspect. One process may cause several: each time that it crashes beside
	// the event, and each time that the event is lost on its way.
	suspectDeliveries = 5
	// recordsKey is where the records are among the metadata of the durable
	// consumer. They can be written by whoever may create the consumer, and are
	// deleted with it.
	recordsKey = "versive-ingress-attempts"
	// maxRecords bounds them: the broker takes 128 KiB of metadata.
	maxRecords = 1000
)

// A history is what is known of an event that was not handled successfully.
type history struct {
	Attempts   int    `json:"attempts,omitempty"`   // handler calls that returned an error, or panicked
	Deliveries uint64 `json:"deliveries,omitempty"` // the broker's count at the last of them
}

// A record is what the broker keeps of an event for the next process.
type record struct {
	history
	Alone int `json:"alone,omitempty"` // times that it was handled alone without returning
}

// records are those of events by their sequences.
type records map[uint64]record

func readRecords(info *jetstream.ConsumerInfo) records {
	var r records
	// What cannot be read was written by hand; it is as if it were not there.
	if err := json.Unmarshal([]byte(info.Config.Metadata[recordsKey]), &r); err != nil || r == nil {
		return make(records)
	}
	return r
}

func (r records) histories() map[uint64]history {
	h := make(map[uint64]history, len(r))
	for sequence, record := range r {
		h[sequence] = record.history
	}
	return h
}

// isSuspect reports whether so many deliveries of an event are unexplained that
// it may be what ends the process.
func (d *dispatcher) isSuspect(m Message) bool {
	return m.Deliveries > d.history(m.Sequence).Deliveries+uint64(min(suspectDeliveries, d.cfg.Attempts))
}

func (d *dispatcher) history(sequence uint64) history {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.histories[sequence]
}

// failed notes that the handler has returned an error, and returns how often it
// has.
func (d *dispatcher) failed(m Message) (attempts int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Another process may have handled what is still here. Forgetting it all now
	// and then costs some more attempts.
	if len(d.histories) > 2*max(maxRecords, d.durable.CachedInfo().Config.MaxAckPending) {
		clear(d.histories)
	}
	h := d.histories[m.Sequence]
	h.Attempts++
	h.Deliveries = m.Deliveries
	d.histories[m.Sequence] = h
	return h.Attempts
}

func (d *dispatcher) forget(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.histories, sequence)
}

// fatalAttempts returns how often the handling of an event alone must have ended
// a process before the event becomes a dead letter. Once may be a coincidence.
func (d *dispatcher) fatalAttempts() int { return min(3, d.cfg.Attempts) }

// beginAlone records that a suspect is about to be handled alone, and returns how
// often that has ended a process before.
func (d *dispatcher) beginAlone(ctx context.Context, m Message) (ended int, err error) {
	err = d.updateRecords(ctx, func(r records) {
		record := r[m.Sequence]
		if ended = record.Alone; ended < d.fatalAttempts() {
			record.Alone++
			r[m.Sequence] = record
		}
	})
	return ended, err
}

// endAlone records that the handling of a suspect has returned.
func (d *dispatcher) endAlone(ctx context.Context, m Message) error {
	return d.updateRecords(ctx, func(r records) {
		r[m.Sequence] = record{history: d.history(m.Sequence)}
	})
}

// saveHistories keeps for the next process what this one knows. Without it, the
// next one takes events whose handler has failed for suspects, and counts their
// attempts anew.
func (d *dispatcher) saveHistories(ctx context.Context) {
	if len(d.histories) == 0 { // no handler runs any more
		return
	}
	err := d.updateRecords(ctx, func(r records) {
		for sequence, h := range d.histories {
			r[sequence] = record{history: h, Alone: r[sequence].Alone}
		}
	})
	if err != nil {
		d.cfg.Logger.Warn("attempts cannot be recorded at the broker; the next process counts them anew", "consumer", d.cfg.Durable, "error", err)
	}
}

// updateRecords changes the records at the broker. If two processes do so at the
// same moment, one of the changes may be lost; that one crash is not enough to
// convict an event leaves room for it.
func (d *dispatcher) updateRecords(ctx context.Context, change func(records)) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := d.durable.Info(ctx)
	if err != nil {
		return err
	}
	r := readRecords(info)
	change(r)
	for sequence, record := range r {
		if sequence <= info.AckFloor.Stream || record.history == (history{}) && record.Alone == 0 || len(r) > maxRecords && record.Alone == 0 {
			delete(r, sequence)
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	config := info.Config
	config.Metadata = map[string]string{recordsKey: string(text)}
	for key, value := range info.Config.Metadata {
		if key != recordsKey {
			config.Metadata[key] = value
		}
	}
	_, err = d.source.JetStream.UpdateConsumer(ctx, d.source.stream(schema.KindEvent), config)
	return err
}
