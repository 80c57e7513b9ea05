// Package ingest receives webhooks over HTTP and answers them.
//
// # The promise
//
// A 2xx answer means that the event is durably in the stream, exactly once.
// Nothing else is ever answered 2xx, and nothing that was answered 2xx is
// ever missing or stored twice. The whole project serves this promise.
//
// This package contributes:
//
//   - Nothing is published before its signature is verified, and it is published
//     under the id that the signature covers.
//   - A 2xx answer requires a [schema.Receipt] from the [Publisher].
//   - An authentic webhook that cannot be parsed is quarantined as it is, not
//     rejected: a sender eventually gives up on a rejected webhook, which would
//     then be lost.
//   - Every other authentic webhook is answered 503, so that the sender resends
//     it.
package ingest
