package replay

import (
	"context"
	"fmt"
	"io"
	"time"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A target takes events in order. Within deliver and flush, it calls an onDelivered
// for each event that it has confirmed, in the same order.
type target interface {
	// deliver hands an event over. An error ends the replay.
	deliver(ctx context.Context, m subscribe.Message) error
	// flush waits until all that was handed over is confirmed.
	flush(ctx context.Context) error
	close()
}

// onDelivered is called for an event that a target has. duplicate reports whether
// the target had it before.
type onDelivered func(m subscribe.Message, duplicate bool)

// undelivered adds to an error the event that was not delivered.
func undelivered(m subscribe.Message, err error) error {
	return fmt.Errorf("event %s (sequence %d): %w", m.ID, m.Sequence, err)
}

// The pauses between attempts double from the shortest to the longest.
const shortestPause, longestPause = 500 * time.Millisecond, 30 * time.Second

func pauseAfter(attempts int) time.Duration {
	return min(shortestPause<<min(attempts-1, 10), longestPause)
}

// sleep waits, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// immediate is a target that confirms each event within deliver.
type immediate struct{}

func (immediate) flush(context.Context) error { return nil }
func (immediate) close()                      {}

// lineTarget writes events as NDJSON. What was written counts as confirmed.
type lineTarget struct {
	immediate
	out       io.Writer
	delivered onDelivered
}

func (t *lineTarget) deliver(_ context.Context, m subscribe.Message) error {
	if err := writeLine(t.out, m); err != nil {
		return err
	}
	t.delivered(m, false)
	return nil
}

// A notEvent is the error of a message that is not an event of an ingress.
type notEvent struct {
	sequence uint64
	error
}

func (e *notEvent) Unwrap() error { return e.error }

// writeLine writes an event as a CloudEvent in JSON.
func writeLine(out io.Writer, m subscribe.Message) error {
	line, err := schema.AppendStructured(nil, m.Header, m.Data, m.Sequence, m.Time)
	if err != nil {
		return &notEvent{m.Sequence, undelivered(m, err)}
	}
	_, err = out.Write(append(line, '\n'))
	return err
}
