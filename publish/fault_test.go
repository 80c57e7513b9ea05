package publish_test

import "time"

// A fault is what fakeJetStream does wrong with one request to store: a single
// message, the first one of a batch, or the commit of a batch.
type fault struct {
	// Code refuses the request with this error code of JetStream.
	Code int
	// Lose stores nothing and says nothing.
	Lose bool
	// Part stores only the first half of a batch and says nothing, as a disk
	// that fails in the middle.
	Part bool
	// Silent stores and says nothing.
	Silent bool
	// Garbage stores and answers something that is no acknowledgement.
	Garbage bool
	// Mixed stores a batch and acknowledges another one.
	Mixed bool
	// Twice stores and answers two times.
	Twice bool
	// Delay stores, and answers late.
	Delay time.Duration
	// Cut closes the client's connection, after storing if Silent.
	Cut bool
}
