package server

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// indexedEvent is how much memory in bytes the embedded broker needs for an
// event that is stored: its subject, and its id in the duplicate window.
const indexedEvent = 512

// gcPercent replaces the default GOGC of 100, with which the collector would run
// dozens of times a second: requests leave much garbage beside a small live heap.
// The memory limit bounds the garbage.
const gcPercent = 400

// limitMemory caps heap growth between collections, until ctx ends. The limit is
// what the embedded broker needs and twice INGRESS_MAX_INFLIGHT, for bodies and
// their copies: with less, the collector would never rest.
func (s *Server) limitMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		return // set by the operator
	}
	debug.SetGCPercent(gcPercent)
	for {
		limit := 2 * int64(s.settings.MaxInflight)
		if s.broker != nil {
			limit += indexedEvent * s.broker.Messages()
		}
		debug.SetMemoryLimit(limit)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
	}
}
