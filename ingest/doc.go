// Package ingest receives webhooks over HTTP and answers them.
//
// # The promise
//
// A 2xx answer means that the event is durably in the stream, exactly once.
// Nothing else is ever answered 2xx, and nothing that was answered 2xx is
// ever missing or twice. Everything in this project serves that sentence.
//
// This package's part of it:
//
//   - Nothing is published before its signature was verified, and the id under
//     which it is published is the one that the signature covers.
//   - 2xx is answered only with a [Receipt] from the [Publisher] in hand.
//   - What is authentic but not understood is kept raw, not refused: a sender
//     gives up on a refused event some day, and then it is lost.
//   - Every other authentic event gets 503, and the sender comes again.
package ingest
