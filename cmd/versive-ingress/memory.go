package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// indexedEvent is how much memory in bytes the embedded broker needs for an
// event that is stored: its subject, and its id in the duplicate window.
const indexedEvent = 512

// gcPercent is how much garbage may gather, in percent of what lives, before
// it is collected. Requests leave nothing else, and next to the little that
// lives the default of 100 would have the collector run dozens of times a
// second. The memory limit bounds it.
const gcPercent = 400

// limitMemory keeps what is no longer used from piling up to as much again as
// is, until ctx ends: from a limit on, the garbage collector works more often.
// The limit leaves bodies and their copies as much room as MAX_INFLIGHT twice,
// whatever the broker needs, or else the collector would never rest.
func (i *ingress) limitMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		return // the operator knows better
	}
	debug.SetGCPercent(gcPercent)
	for {
		limit := 2 * int64(i.settings.MaxInflight)
		if i.broker != nil {
			limit += indexedEvent * i.broker.Messages()
		}
		debug.SetMemoryLimit(limit)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
	}
}
