package page

import (
	"context"
	"sync"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
)

const (
	checkupAge  = time.Minute            // how old a report may be before the next is made
	checkupWait = 300 * time.Millisecond // how long a request waits for it before it gets the old one
)

// A Checkup is a report of doctor.
type Checkup struct {
	Time    time.Time `json:"time"` // at which it was complete
	Verdict string    `json:"verdict"`
	doctor.Report
}

// A checkup makes reports of doctor in the background, because a slow broker or listener
// delays them.
type checkup struct {
	mu       sync.Mutex
	ctx      context.Context // of the reports; nil before begin; guarded by mu
	settings config.Settings // guarded by mu
	latest   *Checkup        // nil before the first; guarded by mu
	current  chan struct{}   // closed when the report in progress is complete; nil if none is in progress; guarded by mu
	running  sync.WaitGroup
}

func (c *checkup) begin(ctx context.Context, s config.Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx, c.settings = ctx, s
}

// wait returns when no report is in progress. The context of begin must have ended.
func (c *checkup) wait() { c.running.Wait() }

// get returns the latest report, and starts the next one if that is old. It returns nil
// if there is none yet.
func (c *checkup) get() *Checkup {
	c.mu.Lock()
	if old := c.latest == nil || time.Since(c.latest.Time) > checkupAge; old && c.current == nil && c.ctx != nil && c.ctx.Err() == nil {
		c.current = make(chan struct{})
		ctx, settings, complete := c.ctx, c.settings, c.current
		c.running.Go(func() { c.make(ctx, settings, complete) })
	}
	current := c.current
	c.mu.Unlock()
	if current != nil {
		select {
		case <-current:
		case <-time.After(checkupWait):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
}

func (c *checkup) make(ctx context.Context, s config.Settings, complete chan struct{}) {
	report := doctor.Run(ctx, doctor.Config{Settings: s})
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() == nil { // otherwise it is incomplete
		c.latest = &Checkup{time.Now().UTC(), report.Verdict(), report}
	}
	c.current = nil
	close(complete)
}
