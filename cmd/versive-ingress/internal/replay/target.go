package replay

import (
	"context"
	"fmt"
	"io"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A target takes events in their order. It calls a function, with a receipt
// for each event in that order, when it is certain to have it; that function
// runs within deliver and flush only.
type target interface {
	// deliver hands an event over. An error ends the replay.
	deliver(ctx context.Context, m subscribe.Message) error
	// flush waits until all that was handed over is confirmed.
	flush(ctx context.Context) error
	close()
}

// receipt is what is kept of an event that a target has confirmed.
type receipt struct {
	sequence  uint64
	size      int // of the data, in bytes
	erased    bool
	duplicate bool // the target had it before
}

func receiptOf(m subscribe.Message) receipt {
	return receipt{sequence: m.Sequence, size: m.Size, erased: m.Erased()}
}

// undelivered says which event an error is about.
func undelivered(m subscribe.Message, err error) error {
	return fmt.Errorf("event %s (sequence %d): %w", m.ID, m.Sequence, err)
}

// lineTarget writes events as NDJSON. What was written counts as confirmed.
type lineTarget struct {
	out     io.Writer
	confirm func(receipt)

	buffer  []byte // whole lines
	waiting []receipt
}

// lineBuffer is about how much is written at once.
const lineBuffer = 64 << 10

func (t *lineTarget) deliver(ctx context.Context, m subscribe.Message) error {
	var err error
	if t.buffer, err = schema.AppendStructured(t.buffer, m.Header, m.Data, m.Sequence, m.Time); err != nil {
		return undelivered(m, err)
	}
	t.buffer = append(t.buffer, '\n')
	t.waiting = append(t.waiting, receiptOf(m))
	if len(t.buffer) < lineBuffer {
		return nil
	}
	return t.flush(ctx)
}

func (t *lineTarget) flush(context.Context) error {
	if len(t.buffer) == 0 {
		return nil
	}
	_, err := t.out.Write(t.buffer)
	t.buffer = t.buffer[:0]
	if err == nil {
		for _, r := range t.waiting {
			t.confirm(r)
		}
	}
	t.waiting = t.waiting[:0]
	return err
}

func (t *lineTarget) close() {}
