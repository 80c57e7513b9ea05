package ingest

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logLimit is how many lines per second are logged for each sampling key: enough
// to diagnose a problem.
const logLimit = 10

// A sampler bounds the log lines about requests that are rejected before they
// are verified, since anyone can send those. For each key it admits the first
// few lines of a second and then logs how many it has dropped.
type sampler struct {
	log   *slog.Logger
	limit int // lines per second and key

	mu    sync.Mutex
	lines map[samplingKey]int // in the second that began with the key's first line; guarded by mu
}

// A samplingKey identifies requests that are rejected for the same reason.
type samplingKey struct {
	outcome *outcome
	reason  string
}

func newSampler(log *slog.Logger) *sampler {
	return &sampler{log: log, limit: logLimit, lines: make(map[samplingKey]int)}
}

// admit reports whether a line may be written.
func (s *sampler) admit(key samplingKey) bool {
	if !s.log.Enabled(context.Background(), key.outcome.level) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.lines[key]
	if n == 0 {
		time.AfterFunc(time.Second, func() { s.endSecond(key) })
	}
	s.lines[key] = n + 1
	return n < s.limit
}

func (s *sampler) endSecond(key samplingKey) {
	s.mu.Lock()
	n := s.lines[key]
	delete(s.lines, key)
	s.mu.Unlock()
	if n > s.limit {
		s.log.LogAttrs(context.Background(), key.outcome.level, "log lines about similar webhooks were dropped",
			slog.Int("left_out", n-s.limit), slog.String("outcome", key.outcome.name), slog.String("reason", key.reason))
	}
}
