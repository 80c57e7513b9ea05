package ingest

import (
	"context"
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
