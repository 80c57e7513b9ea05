// Package publish stores messages in JetStream, durably and once.
//
// Its part of the promise (see package ingest): [Publisher.Publish] returns a
// [Receipt] only when the stream has confirmed the message, now or at an
// earlier attempt. Every other outcome is an error, after which the message
// may or may not be stored; publishing it again settles that, and never
// stores a second copy. Two mechanisms of the broker see to it:
//
//   - Nats-Msg-Id, within the stream's duplicate window;
//   - Nats-Expected-Last-Subject-Sequence: 0 on a subject that ends in the
//     message's id, for as long as the first copy is retained.
//
// An [Eraser] takes messages out again, for good, so that the second mechanism
// still refuses a resend.
//
// Where every commit costs an fsync, messages that wait at the same time are
// committed together, each with a receipt of its own; see [ModeAuto]. None of
// them can make another fail.
//
// The package reaches any JetStream, embedded or not, through nats.go alone.
package publish
