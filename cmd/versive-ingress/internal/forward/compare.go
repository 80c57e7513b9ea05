package forward

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
)

// lossLooks is how often in a row, once a second, a loss is seen before it is believed: the
// new leader of a stream may not have applied yet what it has. staleLooks is the same for a
// stream with replicas: a leader that was replaced may answer for 10 seconds (ADR 28).
const lossLooks, staleLooks = 5, 12

var errHubLoss = errors.New("the hub's stream has lost messages, or was recreated")

// lookPause is the time until compare looks again after the connection was lost.
const lookPause = interval / 20

// A connection to the hub is the time between two reconnects.
type connection struct {
	hub        *publish.Publisher
	reconnects uint64
}

func connectionOf(hub *publish.Publisher) connection {
	return connection{hub, hub.JetStream().Conn().Stats().Reconnects}
}

// isCompared reports whether compare has looked since the connection was established.
func (s *stream) isCompared(hub *publish.Publisher) bool {
	c := s.compared.Load()
	return c != nil && *c == connectionOf(hub)
}

// compare looks every second whether the hub's stream still has what it had, until ctx or
// the connection ends: a hub can be restored from an older copy. If not, watch forwards
// everything again. A position in the stream is saved, and messages are forwarded, only
// after that look: a stream that was restored and then filled by others would otherwise be
// taken for the old one.
func (s *stream) compare(ctx context.Context, hub *publish.Publisher) error {
	for looks := 0; ctx.Err() == nil && s.hub.Load() == hub; {
		reached, current := s.reached.Load(), connectionOf(hub)
		look, cancel := context.WithTimeout(ctx, 5*interval)
		lost, err := s.hubHasLost(look, hub, looks > 0 || !s.isCompared(hub))
		cancel()
		switch {
		case err != nil:
		case !lost:
			looks = 0
			s.down.Store(reached)
			s.compared.Store(&current)
		default:
			s.compared.Store(nil)
			if looks++; looks >= staleLooks || looks >= lossLooks && !s.replicated {
				s.hubLoss.Store(true)
				return errHubLoss
			}
		}
		for i := 0; i == 0 || i < int(interval/lookPause) && (looks > 0 || s.isCompared(hub)); i++ {
			sleep(ctx, lookPause)
		}
	}
	return nil
}

// hubHasLost reports whether the hub's stream ends before a message that it had, or was
// recreated, or, if messages is set, has another message at the position of down or where
// it has confirmed the last one.
func (s *stream) hubHasLost(ctx context.Context, hub *publish.Publisher, messages bool) (bool, error) {
	down, there := *s.down.Load(), *s.there.Load() // before the end of the stream is read
	stream, err := publish.OpenStream(ctx, hub.JetStream(), s.name())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return !down.created.IsZero(), nil
	}
	if err != nil {
		return false, err
	}
	info := stream.CachedInfo()
	if s.replicated = info.Config.Replicas > 1; !publish.HasMajority(info.Cluster) {
		return false, publish.ErrNotLeader
	}
	if !down.created.IsZero() && !down.created.Equal(info.Created) || info.State.LastSeq < max(down.sequence, there.sequence) {
		return true, nil
	}
	if !messages {
		return false, nil
	}
	isOther := func(sequence uint64, other func(*jetstream.RawStreamMsg) bool) (bool, error) {
		if sequence == 0 {
			return false, nil
		}
		m, err := stream.GetMsg(ctx, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) { // it was erased, or has expired
			return false, nil
		}
		return err == nil && other(m), err
	}
	if lost, err := isOther(down.sequence, func(m *jetstream.RawStreamMsg) bool { return !m.Time.Equal(down.time) }); lost || err != nil {
		return lost, err
	}
	return isOther(there.sequence, func(m *jetstream.RawStreamMsg) bool { return idIn(m.Subject) != there.id })
}
