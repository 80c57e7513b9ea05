// Package schema knows what an event is: it parses, validates and normalizes
// the vendor's JSON, names the subject under which an event is stored, and
// decodes a stored event for a consumer.
//
// Its part of the promise (see package ingest): the same body always becomes
// the same bytes under the same subject, nothing that the sender wrote is
// lost on the way, and what cannot be understood is told apart from what can,
// so that it is kept raw instead of being dropped.
//
// The package is pure: it does no I/O, knows no broker and imports nothing of
// the project.
package schema
