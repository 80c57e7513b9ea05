package ingest

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"
)

// A sampler bounds the log lines about requests that were refused before they
// were verified: anybody can cause those. Of each reason it lets through the
// first few in a second, and then says how many it has left out.
type sampler struct {
	log   *slog.Logger
	limit int // lines

	mu    sync.Mutex
	lines map[flood]int // in the second that began with the first; guarded by mu
}

// A flood is requests that are refused for the same reason.
type flood struct {
	outcome *outcome
	reason  string
}

// defaultLogLimit is enough to see what is the matter.
const defaultLogLimit = 10

func newSampler(log *slog.Logger, limit int) *sampler {
	return &sampler{log: log, limit: cmp.Or(limit, defaultLogLimit), lines: make(map[flood]int)}
}

// admit reports whether a line may be written.
func (s *sampler) admit(f flood) bool {
	if !s.log.Enabled(context.Background(), f.outcome.level) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.lines[f]
	if n == 0 {
		time.AfterFunc(time.Second, func() { s.endSecond(f) })
	}
	s.lines[f] = n + 1
	return n < s.limit
}

func (s *sampler) endSecond(f flood) {
	s.mu.Lock()
	n := s.lines[f]
	delete(s.lines, f)
	s.mu.Unlock()
	if n > s.limit {
		s.log.LogAttrs(context.Background(), f.outcome.level, "webhooks like these were left out of the log",
			slog.Int("left_out", n-s.limit), slog.String("outcome", f.outcome.name), slog.String("reason", f.reason))
	}
}
