// Package subscribe reads the stream: once, or again.
//
// [Source.Consume] hands each event to a handler and remembers, in a durable
// consumer of the broker, what was handled. [Source.Range] reads a part of the
// stream in order, as often as one likes, and changes nothing.
//
// Its part of the promise (see package ingest): an event that is in the stream
// reaches the handler. It counts as handled only when the handler has returned
// nil and the broker has confirmed the acknowledgement; whatever happens
// before that, it is delivered again. What the handler gives up on is kept in
// the dead-letter stream, never dropped.
//
// So an event is delivered at least once, and again after a crash between the
// handler's work and the acknowledgement. To process it exactly once, commit
// its ID in one transaction with the work, as the example does.
package subscribe
