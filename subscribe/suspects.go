package subscribe

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// The broker counts deliveries. It does not know whether one arrived, whether a
// handler was called, and what the handler returned. A process knows what its own
// handlers returned, and Attempts counts nothing else. A process that has ended
// cannot report which event ended it. So an event with several deliveries that
// nothing explains is a suspect, and is handled while no other event is in
// flight: if the process ends then, the suspect has ended it. The broker records
// the start of such a call before it, and its return after it.
const (
	// suspectDeliveries is the number of unexplained deliveries beyond which an
	// event is a suspect. Innocent events have some: each time that the process
	// ends while they are in flight, and each time that they are lost with a
	// connection.
	suspectDeliveries = 5
	// recordsKey is the key of the records in the metadata of the durable
	// consumer. Any user who may create the consumer may write them, and they are
	// deleted with it.
	recordsKey = "versive-ingress-attempts"
	// maxRecords bounds them: the broker takes 128 KiB of metadata.
	maxRecords = 1000
)

// A history counts the failures of an event that was not handled successfully.
type history struct {
	Attempts   int    `json:"attempts,omitempty"`   // handler calls that returned an error, or panicked
	Deliveries uint64 `json:"deliveries,omitempty"` // the broker's count at the last of them
}

// A record is stored at the broker for the next process that gets the event.
type record struct {
	history
	Alone int `json:"alone,omitempty"` // times that it was handled alone without returning
}

// records maps the sequences of events to their records.
type records map[uint64]record

func readRecords(info *jetstream.ConsumerInfo) records {
	var r records
	// Records that cannot be read were written by hand, and are ignored.
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
	// Entries of events that another process has handled since are never removed
	// singly. Clearing all of them occasionally costs a few more attempts.
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

// fatalAttempts returns how many processes must have ended while a suspect was
// handled alone before it is dead-lettered. One may be a coincidence.
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

// saveHistories records the histories for the next process. Otherwise that one
// would treat events whose handler has failed as suspects, and count their
// attempts from zero.
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
		d.cfg.Logger.Warn("cannot record attempts at the broker; the next process counts from zero", "consumer", d.cfg.Durable, "error", err)
	}
}

// updateRecords changes the records at the broker. If two processes do so
// concurrently, one of the changes may be lost, so the count of processes that an
// event has ended may be off by one; see fatalAttempts.
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
