// Package subscribe reads the stream.
//
// [Source.Consume] hands each event to a handler. A durable consumer of the
// broker remembers which events were handled. [Source.Range] reads a part of the
// stream in order, any number of times, and changes nothing.
//
// The package's part of the promise (see package ingest): an event that is in
// the stream reaches the handler. It counts as handled only when the handler has
// returned nil and the broker has confirmed the acknowledgement; if anything
// fails before that, it is redelivered. An event for which the handler
// fails permanently is kept in the dead-letter stream, never dropped.
//
// So an event is delivered at least once, and again after a crash between the
// handler's work and the acknowledgement. To process it exactly once, commit
// its ID in one transaction with the work, as the example does.
//
// # What makes a dead letter
//
// An event is dead-lettered for what its own handling did, and for nothing else:
//
//   - The handler returned [ErrPermanent], or the message is not an event.
//   - The handler returned an error or panicked Attempts times.
//   - The process ended (os.Exit, out of memory, a fatal error) each of 3 times
//     that the event was handled alone.
//
// A delivery is not an attempt. The broker counts an event as delivered that
// was lost with a connection, or that was in flight beside the one that ended
// the process. An event that was delivered 5 times (or Attempts times, if that is
// less) without its handler having returned is a suspect: it is handled when
// nothing else is in flight in this process. Before that, its sequence is recorded
// in the metadata of the durable consumer. When the handler returns, even with an
// error, the record is removed.
//
// # Slow connections
//
// An event must arrive within 30 seconds of being sent, and the broker closes a
// connection on which a write takes longer than its write_deadline, 10 seconds by
// default. So 8 MiB need 840 kB/s, or 280 kB/s where the broker has a
// write_deadline of 30 s. On a slower connection [Source.Consume] gets the
// event redelivered without its being handled, which the log reports, and does
// not give it up; [Source.Range] does not get past it.
package subscribe
