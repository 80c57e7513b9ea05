package ingest

import (
	"cmp"
	"context"
	"time"

	"golang.org/x/time/rate"
)

// A brake keeps who floods the handler with unsigned requests from taking the
// processors that the signed ones need: whoever has to wait for an answer sends
// no other request on the connection meanwhile.
type brake struct{ atOnce *rate.Limiter }

const (
	// defaultRefusalLimit is far above what a sender with a wrong secret asks.
	defaultRefusalLimit = 1000

	// refusalDelay is what one of too many waits: long, beside what it costs,
	// and short enough for a sender with a wrong secret to get its answer.
	refusalDelay = time.Second
)

func newBrake(limit int) brake {
	limit = cmp.Or(limit, defaultRefusalLimit)
	return brake{rate.NewLimiter(rate.Limit(limit), limit)}
}

// wait returns when a refusal may be answered, or ctx has ended.
func (b brake) wait(ctx context.Context) {
	if b.atOnce.Allow() {
		return
	}
	delay := time.NewTimer(refusalDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
	}
}
