// Package schema defines the event: it parses, validates and normalizes the
// vendor's JSON, names the subject under which an event is stored, and decodes a
// stored event for a consumer.
//
// Its part of the promise (see package ingest): the same body always becomes
// the same bytes under the same subject, nothing that the sender wrote is lost on
// the way, and a body that cannot be normalized is classified, so that it is kept
// raw instead of being dropped.
//
// Each event type has a file of its own, such as interview_completed.go, and a
// JSON Schema. CONTRIBUTING.md describes how to add one.
//
// The package is pure: it does no I/O, knows no broker, and imports nothing of
// the project. All its functions are safe for concurrent use.
package schema
