// Package publish stores messages in JetStream, durably and once.
//
// Its part of the promise (see package ingest): [Publisher.Publish] returns a
// [schema.Receipt] only when the stream has confirmed the message, in this attempt
// or an earlier one. Every other outcome is an error, after which the message may
// or may not be stored; publishing it again never stores a second copy. Two
// mechanisms of the broker ensure that:
//
//   - Nats-Msg-Id, within the stream's duplicate window;
//   - Nats-Expected-Last-Subject-Sequence: 0 on a subject that ends in the
//     message's id, for as long as the first copy is retained.
//
// An [Eraser] permanently removes messages. It leaves tombstones, so that the second
// mechanism still rejects a resend.
//
// Where every commit costs an fsync, messages that wait at the same time are
// committed together, each with its own receipt; see [ModeAuto]. None of them can
// make another fail.
//
// The package uses JetStream, embedded or not, only through nats.go.
package publish
