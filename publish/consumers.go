package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

const (
	// consumersInterval is the time between two looks at the consumers, each of which
	// reads an event for every consumer that lags.
	consumersInterval = 5 * time.Second

	// maxConsumers bounds the durable consumers that have metrics, because subscribers
	// create them.
	maxConsumers = 100
)

// A ConsumerState is how far a durable consumer has read a stream, by the clock of the
// broker.
type ConsumerState struct {
	*jetstream.ConsumerInfo

	// The oldest event that the consumer has not acknowledged, and when it was stored;
	// zero if the consumer has acknowledged all.
	OldestSequence uint64
	Oldest         time.Time
}

// ForwardConsumer is the name of the durable consumer whose position is what the hub of
// an edge has confirmed. Nothing reads through it.
const ForwardConsumer = "versive-ingress-forward"

// ReadConsumers returns the states of the first durable consumers of a stream, at most
// limit, by name, without ForwardConsumer. Ephemeral consumers belong to readers such as
// the tail command.
func ReadConsumers(ctx context.Context, stream jetstream.Stream, limit int) ([]ConsumerState, error) {
	var states []ConsumerState
	// A cluster leaves out the consumers whose leaders do not answer, and nats.go takes the
	// next page from too early a position, so that others are listed twice. Of a consumer
	// whose servers are all away, the name is left out.
	listed, incomplete := make(map[string]bool), false
	list := stream.ListConsumers(ctx)
	for info := range list.Info() { // to its end: otherwise a goroutine of nats.go would stay
		incomplete = incomplete || listed[info.Name] || info.Name == "" && info.Config.Durable != ""
		listed[info.Name] = info.Name != ""
		if info.Config.Durable != "" && info.Name != ForwardConsumer && len(states) < limit {
			states = append(states, ConsumerState{ConsumerInfo: info})
		}
	}
	err := list.Err()
	if err == nil && incomplete {
		err = errors.New("the leader of some does not answer; retry in 10 seconds, or start the servers that are away")
	}
	if err != nil {
		return nil, fmt.Errorf("listing the consumers of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	for i := range states {
		if err := states[i].readOldest(ctx, stream); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// readOldest sets c.OldestSequence and c.Oldest.
func (c *ConsumerState) readOldest(ctx context.Context, stream jetstream.Stream) error {
	if c.Unacknowledged() == 0 {
		return nil
	}
	for _, filter := range c.Filters() {
		// All events up to the floor are acknowledged, and the next one is not.
		m, err := stream.GetMsg(ctx, c.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // nothing of this filter, or it was erased meanwhile
		case err != nil:
			return fmt.Errorf("reading the oldest event of consumer %s: %w", c.Name, err)
		case c.OldestSequence == 0 || m.Sequence < c.OldestSequence:
			c.OldestSequence, c.Oldest = m.Sequence, m.Time
		}
	}
	return nil
}

// Filters returns the subjects that the consumer reads.
func (c ConsumerState) Filters() []string {
	switch {
	case c.Config.FilterSubject != "":
		return []string{c.Config.FilterSubject}
	case len(c.Config.FilterSubjects) > 0:
		return c.Config.FilterSubjects
	}
	return []string{">"}
}

// Unacknowledged returns how many events the consumer has not acknowledged, whether it
// has received them or not.
func (c ConsumerState) Unacknowledged() uint64 { return c.NumPending + uint64(c.NumAckPending) }

// Lag returns the age of the oldest event that the consumer has not acknowledged; 0 if
// it has acknowledged all.
func (c ConsumerState) Lag() time.Duration {
	if c.Oldest.IsZero() {
		return 0
	}
	return max(0, c.TimeStamp.Sub(c.Oldest))
}

// LastActivity returns when the consumer last received or acknowledged an event; zero
// if neither is known. The broker forgets it when it restarts or rewinds the consumer.
func (c ConsumerState) LastActivity() time.Time {
	return latest(c.Delivered.Last, c.AckFloor.Last)
}

// StalledSince returns since when the consumer has acknowledged nothing although it
// could have; zero if there is nothing to acknowledge, or if it is paused. Until the
// first acknowledgement after a restart of the broker or a rewind, this is when the
// oldest event was stored.
func (c ConsumerState) StalledSince() time.Time {
	if c.Oldest.IsZero() || c.Paused {
		return time.Time{}
	}
	return latest(&c.Oldest, &c.Created, c.AckFloor.Last, c.Config.PauseUntil)
}

// Stalled returns for how long the consumer has acknowledged nothing although it could
// have.
func (c ConsumerState) Stalled() time.Duration {
	since := c.StalledSince()
	if since.IsZero() {
		return 0
	}
	return max(0, c.TimeStamp.Sub(since))
}

func latest(times ...*time.Time) (last time.Time) {
	for _, t := range times {
		if t != nil && t.After(last) {
			last = *t
		}
	}
	return last
}

// consumerStates are the states for metrics, and when they were read.
type consumerStates struct {
	list []ConsumerState
	read time.Time
}

// updateConsumers reads the states of the consumers of events.
func (p *Publisher) updateConsumers(ctx context.Context) error {
	if !p.nc.IsConnected() {
		return nil // not an error, after which the next attempt would be later
	}
	ctx, cancel := context.WithTimeout(ctx, 2*consumersInterval)
	defer cancel()
	list, err := ReadConsumers(ctx, p.streams[schema.KindEvent], maxConsumers)
	if err == nil {
		p.metrics.consumers.Store(&consumerStates{list, time.Now()})
	}
	return err
}
