package find

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"versive-ingress/publish"
)

// A State is how far a consumer is with an event.
type State string

// States of an event for a consumer. The broker reports how many events a consumer has
// received and not acknowledged, but not which: Delivered is one of which that cannot be
// concluded.
const (
	Acknowledged   State = "acknowledged"
	Unacknowledged State = "unacknowledged" // delivered and not acknowledged
	Delivered      State = "delivered"      // delivered, and perhaps acknowledged
	Waiting        State = "waiting"        // not delivered yet
	DeadLettered   State = "dead_lettered"  // acknowledged, because the consumer has given up on it
	NotSelected    State = "not_selected"   // not for this consumer, by its subjects or its start
)

// A Reading is how far a consumer is with the events of a report, and with all others.
type Reading struct {
	Consumer       string `json:"consumer"`
	Acknowledged   uint64 `json:"acknowledged"` // dead-lettered ones included
	Unacknowledged uint64 `json:"unacknowledged"`
	Delivered      uint64 `json:"delivered"`
	Waiting        uint64 `json:"waiting"`
	NotSelected    uint64 `json:"not_selected"`
	DeadLettered   uint64 `json:"dead_lettered"`

	// Of all events, as the command consumers reports them.
	Pending       uint64     `json:"pending"`
	AckPending    int        `json:"ack_pending"`
	Oldest        *time.Time `json:"oldest_time"`
	OldestSeconds float64    `json:"oldest_seconds"`
}

// consumer is a durable consumer of events.
type consumer struct {
	publish.ConsumerState
	// noneAcknowledged reports whether all events that were delivered after the floor are
	// not acknowledged. It asks the broker once.
	noneAcknowledged func() (bool, error)
}

// readConsumers adds to the reports how far each consumer is with their events.
func (f Finder) readConsumers(ctx context.Context, stream jetstream.Stream, reports []Report) error {
	var consumers []consumer
	for i, kind := range idKinds {
		r := &reports[i]
		if r.Events == 0 {
			continue
		}
		if consumers == nil {
			var err error
			if consumers, err = f.consumers(ctx, stream); err != nil {
				return err
			}
		}
		if err := f.addReadings(ctx, stream, consumers, kind.subject(r.ID), r); err != nil {
			return err
		}
		r.List = Latest(r.List)
	}
	return nil
}

func (f Finder) consumers(ctx context.Context, stream jetstream.Stream) ([]consumer, error) {
	states, err := publish.ReadConsumers(ctx, stream, cmp.Or(f.MaxConsumers, math.MaxInt))
	if err != nil {
		return nil, err
	}
	list := make([]consumer, len(states))
	for i, c := range states {
		list[i] = consumer{c, sync.OnceValues(func() (bool, error) {
			if c.Config.AckPolicy == jetstream.AckAllPolicy {
				return true, nil
			}
			after := uint64(0)
			for _, subject := range c.Filters() {
				n, err := count(ctx, stream, subject, c.AckFloor.Stream+1, time.Time{})
				if err != nil {
					return false, err
				}
				after += n
			}
			// Events that were stored since the state was read can only make the sum larger.
			return after == c.Unacknowledged(), nil
		})}
	}
	return list, nil
}

// start returns the first sequence and the first time of the events that the consumer
// receives. One of them is zero.
func (c consumer) start() (sequence uint64, at time.Time) {
	switch c.Config.DeliverPolicy {
	case jetstream.DeliverByStartSequencePolicy:
		return c.Config.OptStartSeq, time.Time{}
	case jetstream.DeliverByStartTimePolicy:
		return 0, *c.Config.OptStartTime
	case jetstream.DeliverNewPolicy, jetstream.DeliverLastPolicy: // of the latter, except for one event
		return 0, c.Created
	}
	return 1, time.Time{}
}

// state returns how far the consumer is with an event.
func (c consumer) state(e Event) (State, error) {
	reads := slices.ContainsFunc(c.Filters(), func(filter string) bool { return intersect(filter, e.Subject) != "" })
	sequence, at := c.start()
	switch {
	case !reads, e.Sequence < sequence, e.Time.Before(at):
		return NotSelected, nil
	case e.Sequence <= c.AckFloor.Stream:
		return Acknowledged, nil
	case e.Sequence > c.ConsumerInfo.Delivered.Stream:
		return Waiting, nil
	case e.Sequence == c.OldestSequence:
		return Unacknowledged, nil
	}
	none, err := c.noneAcknowledged()
	if none {
		return Unacknowledged, err
	}
	return Delivered, err
}

// addReadings adds to r how far each consumer is with its events, which are those on a
// subject.
func (f Finder) addReadings(ctx context.Context, stream jetstream.Stream, consumers []consumer, subject string, r *Report) error {
	all := uint64(len(r.List)) == r.Events
	r.Consumers = make([]Reading, len(consumers))
	var mu sync.Mutex // guards the maps of the events
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i, c := range consumers {
		group.Go(func() error {
			reading := &r.Consumers[i]
			*reading = Reading{Consumer: c.Name, Pending: c.NumPending, AckPending: c.NumAckPending, OldestSeconds: c.Lag().Seconds()}
			if !c.Oldest.IsZero() {
				reading.Oldest = new(c.Oldest.UTC())
			}
			letters := map[uint64]bool{}
			for _, d := range r.DeadLetters {
				if d.Consumer == c.Name && !d.Erased {
					letters[d.EventSequence] = true
					reading.DeadLettered++
				}
			}
			for i, e := range r.List {
				state, err := c.state(e)
				if err != nil {
					return err
				}
				if all {
					reading.add(state, 1)
				}
				if letters[e.Sequence] && state != NotSelected {
					state = DeadLettered
				}
				if i >= Older(r.List) {
					mu.Lock()
					e.Consumers[c.Name] = state
					mu.Unlock()
				}
			}
			if all {
				return nil
			}
			return f.countReading(ctx, stream, c, subject, r.Events, reading)
		})
	}
	return group.Wait()
}

// countReading sets the numbers of a reading of a number of events on a subject, as the
// broker counts them.
func (f Finder) countReading(ctx context.Context, stream jetstream.Stream, c consumer, subject string, events uint64, reading *Reading) error {
	sequence, at := c.start()
	from := func(sequence uint64, at time.Time) (sum uint64, err error) {
		for _, filter := range c.Filters() {
			if both := intersect(filter, subject); both != "" && err == nil {
				var n uint64
				n, err = count(ctx, stream, both, sequence, at)
				sum += n
			}
		}
		return sum, err
	}
	selected, err := from(sequence, at)
	if err != nil {
		return err
	}
	unacknowledged, err := from(max(sequence, c.AckFloor.Stream+1), time.Time{})
	if err != nil {
		return err
	}
	waiting, err := from(max(sequence, c.ConsumerInfo.Delivered.Stream+1), time.Time{})
	if err != nil {
		return err
	}
	selected = min(selected, events)
	unacknowledged = min(unacknowledged, selected)
	waiting = min(waiting, unacknowledged)
	reading.add(NotSelected, events-selected)
	reading.add(Acknowledged, selected-unacknowledged)
	reading.add(Waiting, waiting)
	if between := unacknowledged - waiting; between > 0 {
		none, err := c.noneAcknowledged()
		if err != nil {
			return err
		}
		state := Delivered
		if none {
			state = Unacknowledged
		}
		reading.add(state, between)
	}
	return nil
}

// A number is that of the events in a state.
type number struct {
	state State
	n     *uint64
}

// numbers returns the numbers of events by state, in the order in which they are printed.
func (r *Reading) numbers() [6]number {
	return [...]number{
		{Acknowledged, &r.Acknowledged},
		{Unacknowledged, &r.Unacknowledged},
		{Delivered, &r.Delivered},
		{Waiting, &r.Waiting},
		{NotSelected, &r.NotSelected},
		{DeadLettered, &r.DeadLettered},
	}
}

func (r *Reading) add(state State, n uint64) {
	for _, number := range r.numbers() {
		if number.state == state {
			*number.n += n
		}
	}
}

// intersect returns the subject that matches what both of two subjects with wildcards
// match, or "" if that is nothing.
func intersect(a, b string) string {
	if a == ">" {
		return b
	}
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	var both []string
	for i := 0; i < len(as) && i < len(bs); i++ {
		switch {
		case as[i] == ">":
			return strings.Join(append(both, bs[i:]...), ".")
		case bs[i] == ">":
			return strings.Join(append(both, as[i:]...), ".")
		case as[i] == "*":
			both = append(both, bs[i])
		case bs[i] == "*", as[i] == bs[i]:
			both = append(both, as[i])
		default:
			return ""
		}
	}
	if len(as) != len(bs) {
		return ""
	}
	return strings.Join(both, ".")
}
