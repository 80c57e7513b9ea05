package subscribe

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// Selection is a part of a stream. The zero Selection is all events that are
// stored at the time.
type Selection struct {
	Kind    schema.Kind   // which stream; the zero value is that of the events
	Filter  schema.Filter // which events
	Subject string        // NATS subject, with wildcards, instead of Filter

	First, Last  uint64    // sequences, both included; 0 is no bound
	Since, Until time.Time // stored at Since or later and before Until; zero is no bound

	HeadersOnly bool // leave out the data; Message.Size is its length
	Follow      bool // wait for new messages instead of ending; Last and Until are ignored
}

// Range reads a part of a stream in order and ends. It acknowledges nothing
// and leaves nothing at the broker: any number of ranges may run concurrently.
//
// Where neither Last nor Until bounds it, it ends with what was the stream's
// last message when it began. Once it has begun, it waits for a broker that is
// away, and continues after the last message it has yielded. It ends with an error
// if ctx ends, if the stream does not exist or was recreated, or if the connection
// is closed. One that follows waits for a stream that was deleted to be recreated,
// and reads that from the beginning.
//
// A bounded range ends with an [*UnreadableError] if the stream counts messages
// of the selection that it cannot return. One that follows passes over them.
func (s Source) Range(ctx context.Context, sel Selection) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		read := s.readBounded
		if sel.Follow {
			read = s.follow
		}
		err := read(ctx, sel, func(m Message) bool { return yield(m, nil) })
		if err != nil {
			yield(Message{}, fmt.Errorf("reading stream %s: %w", s.stream(sel.Kind), err))
		}
	}
}

// follow yields the messages of a selection, and waits for new ones. It returns nil
// when yield has returned false.
func (s Source) follow(ctx context.Context, sel Selection, yield func(Message) bool) error {
	c := s.cursor(sel)
	defer c.close()
	return c.read(ctx, func(m Message) bool {
		return m.Time.Before(sel.Since) || yield(m)
	}, func(context.Context) bool { return true })
}

// bounded is the state of a range that ends.
type bounded struct {
	cursor
	first, last uint64           // sequences that bound the selection
	beyond      uint64           // messages on the selection's subject after the bounds, when it began
	delivered   schema.Sequences // from first to last, by all consumers
}

// readBounded yields the messages of a bounded selection. It returns nil at the
// end, or when yield has returned false.
func (s Source) readBounded(ctx context.Context, sel Selection, yield func(Message) bool) error {
	b := &bounded{cursor: s.cursor(sel)}
	defer b.close()
	if err := b.begin(ctx); err != nil || b.last < b.first {
		return err
	}
	stopped := false
	err := b.read(ctx, func(m Message) bool {
		if !sel.Until.IsZero() && !m.Time.Before(sel.Until) {
			b.last = min(b.last, m.Sequence-1)
		}
		if m.Sequence > b.last {
			return false
		}
		b.delivered.Add(m.Sequence, m.Sequence)
		m.Pending -= min(m.Pending, b.beyond)
		stopped = !m.Time.Before(sel.Since) && !yield(m)
		return !stopped && m.Sequence < b.last
	}, b.hasMore)
	if err != nil || stopped {
		return err
	}
	return b.verify(ctx)
}

// begin opens the first consumer and sets the bounds. The first message that was
// stored at Until or later lowers last when it is read. It cannot be looked up
// before: a consumer may be on a replica that lags, and the client cannot ask the
// stream's leader for a time.
func (b *bounded) begin(ctx context.Context) error {
	if err := b.open(ctx); err != nil {
		return err
	}
	stored := b.stream.CachedInfo().State.LastSeq
	b.first, b.last = b.next, stored
	if b.sel.Last > 0 {
		b.last = min(stored, b.sel.Last)
	}
	var err error
	if b.last < stored {
		b.beyond, err = b.count(ctx, b.last+1)
	}
	if err == nil && !b.sel.Until.IsZero() {
		var after uint64
		after, err = b.countConsumer(ctx, startingAt(b.config(), b.sel.Until))
		b.beyond = max(b.beyond, after)
	}
	return err
}

// hasMore reports whether the stream may return more messages of the selection.
// It asks the stream's leader: the consumer may be on a replica that lags. It
// also returns false if the stream has a next message but cannot return it,
// because a whole block cannot be read: no consumer gets past that.
func (b *bounded) hasMore(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	next, err := b.stream.GetMsg(ctx, b.next, jetstream.WithGetMsgSubject(b.source.filterSubject(b.sel)))
	return err == nil && next.Sequence <= b.last || err != nil && !errors.Is(err, jetstream.ErrMsgNotFound)
}
