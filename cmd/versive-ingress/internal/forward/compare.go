package forward

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
)

// lossLooks is how often in a row a loss is seen before it is believed: the new leader of
// a stream may not have applied yet what it has.
const lossLooks = 5

var errHubLoss = errors.New("the hub's stream has lost messages, or was recreated")

// compare looks every second whether the hub's stream still has what it had, until ctx or
// the connection ends: a hub can be restored from an older copy. If not, watch forwards
// everything again. A position in the stream is saved only after that look: a stream that
// was restored and then filled by others would otherwise be taken for the old one.
func (s *stream) compare(ctx context.Context, hub *publish.Publisher) error {
	conn := hub.JetStream().Conn()
	for looks, seen, connection := 0, false, uint64(0); ctx.Err() == nil && s.hub.Load() == hub; sleep(ctx, interval) {
		reached, reconnects := s.reached.Load(), conn.Stats().Reconnects
		look, cancel := context.WithTimeout(ctx, 5*interval)
		lost, err := s.hubHasLost(look, hub, looks > 0 || !seen || reconnects != connection)
		cancel()
		switch {
		case err != nil:
		case !lost:
			looks, seen, connection = 0, true, reconnects
			s.down.Store(reached)
		default:
			if looks++; looks >= lossLooks {
				s.hubLoss.Store(true)
				return errHubLoss
			}
		}
	}
	return nil
}

// hubHasLost reports whether the hub's stream ends before a message that it had, or was
// recreated, or, if message is set, has another message at the position of down.
func (s *stream) hubHasLost(ctx context.Context, hub *publish.Publisher, message bool) (bool, error) {
	down, there := *s.down.Load(), s.there.Load() // before the end of the stream is read
	stream, err := hub.JetStream().Stream(ctx, s.name())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return !down.created.IsZero(), nil
	}
	if err != nil {
		return false, err
	}
	info := stream.CachedInfo()
	if !down.created.IsZero() && !down.created.Equal(info.Created) || info.State.LastSeq < max(down.sequence, there) {
		return true, nil
	}
	if !message || down.sequence == 0 {
		return false, nil
	}
	publish.ReadFromLeader(stream)
	m, err := stream.GetMsg(ctx, down.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it was erased, or has expired
		return false, nil
	}
	return err == nil && !m.Time.Equal(down.time), err
}
