package subscribe

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
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

	HeadersOnly bool // leave out the data; Message.Size tells its length
	Follow      bool // do not end: wait for what comes; Last and Until do not count
}

// Range reads a part of a stream in order and ends. It acknowledges nothing
// and leaves nothing behind: any number of them may run at once.
//
// Where neither Last nor Until bounds it, it ends with what was the stream's
// last message when it began. It lives through the loss of the broker: it goes
// on behind the last message it has yielded. An error ends it: that of ctx, of
// a stream that does not exist, or of a connection that was closed. One that
// follows waits for a stream that was deleted to be created anew.
//
// A bounded range ends with an [*UnreadableError] if the stream counts messages
// of the selection that it cannot return. One that follows passes over them.
func (s Source) Range(ctx context.Context, sel Selection) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		r := &reader{source: s, sel: sel, next: max(sel.First, 1)}
		defer r.close()
		for {
			m, err := r.read(ctx)
			switch {
			case errors.Is(err, errEnd):
				if err := r.verify(ctx); err != nil {
					yield(Message{}, fmt.Errorf("reading stream %s: %w", s.stream(sel.Kind), err))
				}
				return
			case err != nil:
				yield(Message{}, fmt.Errorf("reading stream %s: %w", s.stream(sel.Kind), err))
				return
			case !yield(m, nil):
				return
			}
		}
	}
}

var errEnd = errors.New("end of the range")

const (
	// idle is after how long without a message a bounded reader asks the stream
	// whether there is still one to come: it may have been deleted meanwhile. The
	// client misses heartbeats only while it waits, so it must wait for longer
	// than two of them.
	idle = 7 * time.Second
	// apiTimeout bounds one question to the broker.
	apiTimeout = 5 * time.Second
	// retryWait is between attempts to reach the broker.
	retryWait = 500 * time.Millisecond
	// leftover is after how long the broker removes a reader that has vanished.
	leftover = time.Minute

	// What a reader asks for ahead. The broker's largest message is half of it.
	aheadMessages = 1000
	aheadBytes    = 64 << 20
)

// A reader reads a selection through consumers of the broker, one after the
// other: what ends one, the next takes up. The client's ordered consumer does
// that by itself, but takes a stream that was created anew for the old one.
type reader struct {
	source Source
	sel    Selection

	next    uint64    // the sequence from which to read on
	created time.Time // of the stream; zero until it was first seen

	messages jetstream.MessagesContext // nil while there is no consumer
	stream   jetstream.Stream
	consumer jetstream.Consumer
	drained  bool        // as far as the consumer knows, nothing more will come
	received uint64      // from this consumer
	unwatch  func() bool // ends the watch over the context

	delivered schema.Sequences // of the selection, by all consumers
	opened    int              // how many consumers there were
	// complete says that nothing was passed over: the consumer, the only one so
	// far, had nothing pending behind its last message. A message that it cannot
	// read stays pending.
	complete bool
}

// read returns the next message of the selection, or errEnd.
func (r *reader) read(ctx context.Context) (Message, error) {
	for {
		if r.messages == nil {
			if err := r.open(ctx); err != nil {
				return Message{}, err
			}
		}
		if !r.sel.Follow && r.isEnd(ctx) {
			return Message{}, errEnd
		}
		msg, err := r.messages.Next(jetstream.NextMaxWait(idle))
		switch {
		case ctx.Err() != nil:
			return Message{}, context.Cause(ctx)
		case errors.Is(err, nats.ErrTimeout):
			r.drained = true
			switch {
			case r.hasLost(ctx):
				r.close()
			case !r.sel.Follow && r.isStuck(ctx):
				return Message{}, errEnd
			}
			continue
		case err != nil:
			r.close()
			continue
		}
		m, err := newMessage(msg)
		if err != nil {
			return Message{}, err
		}
		if r.received++; m.delivery != r.received { // the client was too slow, and dropped some
			r.close()
			continue
		}
		if !r.sel.Follow && (m.Sequence > r.sel.Last || !r.sel.Until.IsZero() && !m.Time.Before(r.sel.Until)) {
			r.sel.Last = min(r.sel.Last, m.Sequence-1)
			return Message{}, errEnd
		}
		r.next = m.Sequence + 1
		r.drained = m.pending == 0
		r.complete = r.drained && r.opened == 1
		if !m.Time.Before(r.sel.Since) {
			if !r.sel.Follow {
				r.delivered.Add(m.Sequence, m.Sequence)
			}
			return m, nil
		}
	}
}

// isEnd reports whether nothing more of a bounded selection will come. Where it
// is short of its last sequence it asks the stream: the consumer may be on a
// replica that is behind.
func (r *reader) isEnd(ctx context.Context) bool {
	if r.next > r.sel.Last {
		return true
	}
	if !r.drained {
		return false
	}
	r.drained = false
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	last, err := r.stream.GetLastMsgForSubject(ctx, r.source.filterSubject(r.sel))
	return errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && (last.Sequence < r.next || last.Time.Before(r.sel.Since))
}

// hasLost reports whether the consumer has delivered what never arrived: a
// connection was lost with it, and no message behind it shows the gap.
func (r *reader) hasLost(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := r.consumer.Info(ctx)
	return err != nil || info.Delivered.Stream >= r.next
}

// open makes a consumer that begins at r.next. Once the stream was seen, it
// waits for a broker that is away.
func (r *reader) open(ctx context.Context) error {
	for {
		err := r.tryOpen(ctx)
		switch {
		case err == nil:
			r.unwatch = context.AfterFunc(ctx, r.messages.Stop)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case r.created.IsZero(), errors.Is(err, errAnew), isClosed(err):
			return err
		case !r.sel.Follow && errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
}

// errAnew ends a bounded range: what it was to read is gone.
var errAnew = errors.New("the stream was deleted and created anew while it was read")

func (r *reader) tryOpen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var err error
	if r.stream, err = r.source.open(ctx, r.sel.Kind); err != nil {
		return err
	}
	info := r.stream.CachedInfo()
	switch {
	case r.created.IsZero():
		r.created = info.Created
		if last := info.State.LastSeq; r.sel.Last == 0 || r.sel.Last > last {
			r.sel.Last = last
		}
	case r.created.Equal(info.Created):
	case r.sel.Follow: // its sequences begin again
		r.created, r.next = info.Created, 1
	default:
		return errAnew
	}

	r.consumer, err = r.stream.CreateConsumer(ctx, r.config())
	if err != nil {
		return err
	}
	r.received, r.drained = 0, r.consumer.CachedInfo().NumPending == 0
	r.opened++
	r.complete = r.opened == 1 && r.drained
	r.messages, err = r.consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(aheadMessages, aheadBytes),
		jetstream.PullHeartbeat(heartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	return err
}

// filterSubject returns the subject of what is selected, with wildcards.
func (s Source) filterSubject(sel Selection) string {
	switch {
	case sel.Subject != "":
		return sel.Subject
	case sel.Kind == schema.KindEvent:
		return sel.Filter.Subject(s.subject())
	default:
		return sel.Kind.Prefix(s.subject()) + ".>"
	}
}

func (r *reader) config() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		FilterSubject:     r.source.filterSubject(r.sel),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.next,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       r.sel.HeadersOnly,
		InactiveThreshold: leftover,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if r.next == 1 && !r.sel.Since.IsZero() {
		since := r.sel.Since
		c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &since
	}
	return c
}

func (r *reader) close() {
	if r.messages == nil {
		return
	}
	r.unwatch()
	r.messages.Stop()
	r.messages = nil
	// Or it would stay until it has been idle for a while.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.source.JetStream.DeleteConsumer(ctx, r.source.stream(r.sel.Kind), r.consumer.CachedInfo().Name)
}

func isClosed(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, jetstream.ErrConnectionClosed)
}
