package subscribe

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sort"
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

	// Organization, if it is not "", leaves only the messages of the organization, and
	// the tombstones of which it is not known. Subjects do not name it, so the broker
	// sends the other messages as well, and Message.Pending counts them.
	Organization string

	HeadersOnly bool // leave out the data; Message.Size is its length
	Follow      bool // wait for new messages instead of ending; Last and Until are ignored
}

// includes reports whether a message is selected by what the broker does not know.
func (s Selection) includes(m Message) bool {
	unknown := m.Organization == "" && m.Erased()
	return !m.Time.Before(s.Since) && (s.Organization == "" || s.Organization == m.Organization || unknown)
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
		c := cursor{source: s, sel: sel, next: max(sel.First, 1), stallTimeout: stallCheck}
		defer c.close()
		read := c.readBounded
		if sel.Follow {
			read = c.follow
		}
		err := read(withoutDeadline{ctx}, func(m Message) bool { return !sel.includes(m) || yield(m, nil) })
		if err != nil {
			yield(Message{}, fmt.Errorf("reading stream %s: %w", s.stream(sel.Kind), err))
		}
	}
}

// follow yields messages, and waits for new ones. It returns nil when yield has
// returned false.
func (c *cursor) follow(ctx context.Context, yield func(Message) bool) error {
	return c.read(ctx, yield, func(context.Context) bool { return true })
}

// bounds are those of a range that ends, and what was read within them.
type bounds struct {
	first, last uint64           // sequences
	beyond      uint64           // messages on the selection's subject after last, when the range began
	delivered   schema.Sequences // from first to last, by all consumers
}

// readBounded yields the messages of a bounded selection. It returns nil at the
// end, or when yield has returned false.
func (c *cursor) readBounded(ctx context.Context, yield func(Message) bool) error {
	if err := c.retry(ctx, c.open); err != nil {
		return err
	}
	b, err := c.bounds(ctx)
	if err != nil || b.last < b.first {
		return err
	}
	stopped := false
	message := func(m Message) bool {
		if !c.sel.Until.IsZero() && !m.Time.Before(c.sel.Until) {
			b.last = min(b.last, m.Sequence-1)
		}
		if m.Sequence > b.last {
			return false
		}
		b.delivered.Add(m.Sequence, m.Sequence)
		m.Pending -= min(m.Pending, b.beyond)
		stopped = !yield(m)
		return !stopped && m.Sequence < b.last
	}
	for more := true; more && err == nil; {
		err = c.read(ctx, message, func(ctx context.Context) bool { return c.hasMore(ctx, b.last) })
		if more = err == nil && !stopped && c.sel.Subject == ">" && c.next <= b.last; more {
			err = c.retry(ctx, func(ctx context.Context) (err error) {
				more, err = c.skipBlock(ctx, b.last)
				return err
			})
		}
	}
	// A message that a consumer cannot read stays pending, but only until anyone asks for
	// the consumer's state, as each ingress does for its metrics: the broker then lowers its
	// count to the sequences that follow.
	if err != nil || stopped || c.consumers == 1 && c.pending == 0 && c.counted <= b.delivered.Len() {
		return err
	}
	return c.retry(ctx, func(ctx context.Context) error { return c.verify(ctx, b) })
}

// bounds returns the bounds of the selection. The first message that was stored
// at Until or later lowers last when it is read. It cannot be looked up before: a
// consumer may be on a replica that lags, and the client cannot ask the stream's
// leader for a time.
func (c *cursor) bounds(ctx context.Context) (b bounds, err error) {
	stored := c.stream.CachedInfo().State.LastSeq
	b.first, b.last = c.next, stored
	if c.sel.Last > 0 {
		b.last = min(stored, c.sel.Last)
	}
	if b.last < stored {
		b.beyond, err = c.count(ctx, b.last+1, time.Time{})
	}
	if err == nil && !c.sel.Until.IsZero() {
		var after uint64
		after, err = c.count(ctx, 0, c.sel.Until)
		b.beyond = max(b.beyond, after)
	}
	return b, err
}

// hasMore reports whether the stream may return more messages of the selection,
// up to last. It asks the stream's leader: the consumer may be on a replica that
// lags. It also returns false if the stream has a next message but cannot return
// it, because a whole block cannot be read: no consumer gets past that. See skipBlock.
func (c *cursor) hasMore(ctx context.Context, last uint64) bool {
	next, err := c.stream.GetMsg(ctx, c.next, jetstream.WithGetMsgSubject(c.subject()))
	return err == nil && next.Sequence <= last || err != nil && !errors.Is(err, jetstream.ErrMsgNotFound)
}

// skipBlock moves c.next past a block that cannot be read at all, to the next message up to
// last, and reports whether there is one. Where two such blocks are near each other, it may
// pass over what is between them.
func (c *cursor) skipBlock(ctx context.Context, last uint64) (more bool, err error) {
	var found uint64
	find := func(sequence uint64) bool { // finds the first message from there on, if it can be read
		m, failure := c.stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(c.subject()))
		if failure == nil && m.Sequence <= last {
			found = m.Sequence
			return true
		}
		if failure != nil && !errors.Is(failure, jetstream.ErrMsgNotFound) {
			err = failure
		}
		return false
	}
	low, step := c.next, uint64(1) // there is none from low on
	for low < last && err == nil && !find(min(low+step, last)) {
		low, step = min(low+step, last), 2*step
	}
	if found > 0 { // between the two, it is found from some sequence on
		sort.Search(int(min(step, last-low))-1, func(n int) bool { return err == nil && find(low+1+uint64(n)) })
	}
	if found == 0 || err != nil {
		return false, err
	}
	c.next = found
	c.close()
	return true, nil
}
