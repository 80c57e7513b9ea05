package publish_test

import "time"

// A fault is how fakeJetStream misbehaves for one request: a single message, the first
// message of a batch, or the commit of a batch.
type fault struct {
	// Code rejects the request with this error code of JetStream.
	Code int
	// Lose neither stores nor answers.
	Lose bool
	// Part stores the first half of a batch and does not answer, as if the disk had
	// failed.
	Part bool
	// Silent stores and does not answer.
	Silent bool
	// Garbage stores and answers with something other than an acknowledgement.
	Garbage bool
	// Mixed stores a batch and acknowledges another one.
	Mixed bool
	// Twice stores and answers twice.
	Twice bool
	// Delay stores and answers after this time.
	Delay time.Duration
	// Cut closes the client's connection. It stores only if Silent is set as well.
	Cut bool
}
