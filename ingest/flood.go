package ingest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A tarpit delays rejections beyond a rate, so that a flood of forged requests
// does not take the CPU time that signed ones need: a client that waits for an
// answer sends nothing else on its HTTP/1 connection.
type tarpit struct{ limiter *rate.Limiter }

const (
	// rejectionLimit is how many rejections per second are answered immediately.
	// A sender with a wrong secret stays far below it.
	rejectionLimit = 1000

	// rejectionDelay is how long each rejection beyond the limit is delayed. It
	// is short enough for a sender with a wrong secret to still get its answer.
	rejectionDelay = time.Second

	// logLimit is how many lines per second are logged for each sampling key: enough
	// to diagnose a problem.
	logLimit = 10
)

func newTarpit() tarpit { return tarpit{rate.NewLimiter(rejectionLimit, rejectionLimit)} }

// wait returns when a rejection may be answered or ctx is done.
func (t tarpit) wait(ctx context.Context) {
	if t.limiter.Allow() {
		return
	}
	select {
	case <-time.After(rejectionDelay):
	case <-ctx.Done():
	}
}

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
	s.lines[key]++
	n := s.lines[key]
	if n == 1 {
		time.AfterFunc(time.Second, func() { s.endSecond(key) })
	}
	return n <= s.limit
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
