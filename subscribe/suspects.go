package subscribe

import (
	"context"
	"encoding/json"
	"maps"

	"github.com/nats-io/nats.go/jetstream"
)

// The broker counts deliveries. It does not know whether one arrived, whether a
// handler was called, and what the handler returned. A process knows what its own
// handlers returned, and Attempts counts nothing else. A process that has ended
// cannot report which event ended it. So an event with several deliveries that
// nothing explains is a suspect, and is handled while no other event is in
// flight: if the process ends then, the suspect has ended it. The broker records
// the start of such a call before it, and its return after it.
//
// A process reads the records when it begins, counts in its own copy of them,
// which mu guards, and stores it when it stops gracefully. The count of calls
// alone is read and written at the broker only, while the suspect has all workers.
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

// A record counts the failures of an event that was not handled successfully.
type record struct {
	Attempts   int    `json:"attempts,omitempty"`   // handler calls that returned an error, or panicked
	Deliveries uint64 `json:"deliveries,omitempty"` // the broker's count at the last of them
	Alone      int    `json:"alone,omitempty"`      // times that it was handled alone without returning
}

// readRecords returns the records at the broker, by the events' sequences.
func readRecords(info *jetstream.ConsumerInfo) map[uint64]record {
	records := make(map[uint64]record)
	// Records that cannot be read were written by hand, and are ignored.
	if json.Unmarshal([]byte(info.Config.Metadata[recordsKey]), &records) != nil || records == nil {
		return make(map[uint64]record)
	}
	return records
}

// isSuspect reports whether so many deliveries of an event are unexplained that
// it may be what ends the process.
func (d *dispatcher) isSuspect(m Message) bool {
	return m.Deliveries > d.record(m.Sequence).Deliveries+uint64(min(suspectDeliveries, d.cfg.Attempts))
}

func (d *dispatcher) record(sequence uint64) record {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.records[sequence]
}

// failed notes that the handler has returned an error, and returns how often it
// has.
func (d *dispatcher) failed(m Message) (attempts int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Records of events that another process has handled since are never removed
	// singly. Clearing all of them occasionally costs a few more attempts.
	if len(d.records) > 2*max(maxRecords, d.durable.CachedInfo().Config.MaxAckPending) {
		clear(d.records)
	}
	r := d.records[m.Sequence]
	r.Attempts++
	r.Deliveries = m.Deliveries
	d.records[m.Sequence] = r
	return r.Attempts
}

func (d *dispatcher) forget(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.records, sequence)
}

// fatalAttempts returns how many processes must have ended while a suspect was
// handled alone before it is dead-lettered. One may be a coincidence.
func (d *dispatcher) fatalAttempts() int { return min(3, d.cfg.Attempts) }

// beginAlone records that a suspect is about to be handled alone, and returns how
// often that has ended a process before.
func (d *dispatcher) beginAlone(ctx context.Context, m Message) (ended int, err error) {
	err = d.updateRecords(ctx, func(records map[uint64]record) {
		r := records[m.Sequence]
		if ended = r.Alone; ended < d.fatalAttempts() {
			r.Alone++
			records[m.Sequence] = r
		}
	})
	return ended, err
}

// endAlone records that the handling of a suspect has returned.
func (d *dispatcher) endAlone(ctx context.Context, m Message) error {
	return d.updateRecords(ctx, func(records map[uint64]record) {
		r := d.record(m.Sequence)
		r.Alone = 0
		records[m.Sequence] = r
	})
}

// saveRecords stores the records for the next process. Otherwise that one would
// treat events whose handler has failed as suspects, and count their attempts
// from zero. No handler may be running.
func (d *dispatcher) saveRecords(ctx context.Context) {
	if len(d.records) == 0 {
		return
	}
	err := d.updateRecords(ctx, func(records map[uint64]record) {
		for sequence, r := range d.records {
			r.Alone = records[sequence].Alone
			records[sequence] = r
		}
	})
	if err != nil {
		d.cfg.Logger.Warn("cannot record attempts at the broker; the next process counts from zero", "consumer", d.cfg.Durable, "error", err)
	}
}

// updateRecords changes the records at the broker. If two processes do so
// concurrently, one of the changes may be lost, so the count of processes that an
// event has ended may be off by one; see fatalAttempts.
func (d *dispatcher) updateRecords(ctx context.Context, change func(map[uint64]record)) error {
	info, err := d.durable.Info(ctx)
	if err != nil {
		return err
	}
	records := readRecords(info)
	change(records)
	maps.DeleteFunc(records, func(sequence uint64, r record) bool {
		return sequence <= info.AckFloor.Stream || r == record{} || r.Alone == 0 && len(records) > maxRecords
	})
	text, err := json.Marshal(records)
	if err != nil {
		return err
	}
	config := info.Config
	config.Metadata = map[string]string{}
	maps.Copy(config.Metadata, info.Config.Metadata)
	config.Metadata[recordsKey] = string(text)
	_, err = d.source.JetStream.UpdateConsumer(ctx, d.source.stream(d.kind), config)
	return err
}
