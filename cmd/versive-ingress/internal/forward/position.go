package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
)

// Consumer is the name of the durable consumer of each of the edge's streams whose
// position is what the hub has confirmed.
const Consumer = publish.ForwardConsumer

// Keys of the consumer's metadata, which are the position of down: the sequence in the
// hub's stream up to which tombstones were applied here, when that message was stored, and
// when that stream was created; and the last sequence that has confirmed a message, which
// can be higher, and the id in the subject of that message.
const (
	metadataErased  = "versive-ingress.erased"
	metadataTime    = "versive-ingress.erased-time"
	metadataCreated = "versive-ingress.erased-created"
	metadataThere   = "versive-ingress.confirmed"
	metadataID      = "versive-ingress.confirmed-id"
)

// A Status is the state of a stream that is forwarded.
type Status struct {
	Exists  bool          // false for the stream of dead letters until a consumer needs it
	Pending uint64        // messages that wait to be forwarded
	Oldest  time.Duration // since the oldest of them was stored; 0 if there is none
}

// ReadStatus returns the state of a stream of the edge. The consumer need not exist.
func ReadStatus(ctx context.Context, js jetstream.JetStream, name string) (Status, error) {
	stream, err := publish.OpenStream(ctx, js, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Status{}, nil
	}
	if err != nil {
		return Status{}, err
	}
	info := stream.CachedInfo()
	consumer, err := stream.Consumer(ctx, Consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return readStatus(ctx, stream, 0, info.State.Msgs)
	}
	if err != nil {
		return Status{}, fmt.Errorf("stream %s: consumer %s: %w", name, Consumer, err)
	}
	position := consumer.CachedInfo()
	if !publish.IsFromLeader(position.Cluster, info.Config.Replicas) || !publish.HasMajority(info.Cluster) {
		return Status{}, fmt.Errorf("stream %s: consumer %s: %w", name, Consumer, publish.ErrNotLeader)
	}
	return readStatus(ctx, stream, position.AckFloor.Stream, position.NumPending)
}

func readStatus(ctx context.Context, stream jetstream.Stream, forwarded, pending uint64) (Status, error) {
	s := Status{Exists: true}
	if forwarded >= stream.CachedInfo().State.LastSeq {
		return s, nil
	}
	next, err := stream.GetMsg(ctx, forwarded+1, jetstream.WithGetMsgSubject(">"))
	if errors.Is(err, jetstream.ErrMsgNotFound) { // only gaps follow
		return s, nil
	}
	if err != nil {
		return Status{}, fmt.Errorf("stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	s.Pending = max(pending, 1) // the count is not exact
	s.Oldest = max(stream.CachedInfo().TimeStamp.Sub(next.Time), 0)
	return s, nil
}

// open returns the consumer, which it creates if it does not exist.
func (s *stream) open(ctx context.Context, stream jetstream.Stream) (*jetstream.ConsumerInfo, error) {
	consumer, err := stream.Consumer(ctx, Consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.log.Info("forwarding stream from its first message", "stream", s.name())
		consumer, err = stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:     Consumer,
			Description: "What the hub has confirmed. Without it, everything is forwarded again",
			AckPolicy:   jetstream.AckExplicitPolicy,
			MaxDeliver:  -1,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", Consumer, err)
	}
	return consumer.CachedInfo(), nil
}

// save records the positions.
func (s *stream) save(ctx context.Context) error {
	forwarded, down := s.forwarded.Load().sequence, *s.down.Load()
	down.there = *s.there.Load()
	if forwarded != s.saved {
		if _, err := s.cfg.Edge.JetStream.ResetConsumerToSequence(ctx, s.name(), Consumer, forwarded+1); err != nil {
			return fmt.Errorf("saving the position: %w", err)
		}
		s.saved = forwarded
	}
	if down != s.savedDown {
		consumer, err := s.cfg.Edge.JetStream.Consumer(ctx, s.name(), Consumer)
		if err != nil {
			return err
		}
		config := consumer.CachedInfo().Config
		metadata := make(map[string]string)
		maps.Copy(metadata, config.Metadata)
		metadata[metadataErased] = strconv.FormatUint(down.sequence, 10)
		metadata[metadataTime] = down.time.UTC().Format(time.RFC3339Nano)
		metadata[metadataCreated] = down.created.UTC().Format(time.RFC3339Nano)
		metadata[metadataThere] = strconv.FormatUint(down.there.sequence, 10)
		metadata[metadataID] = down.there.id
		config.Metadata = metadata
		if _, err := s.cfg.Edge.JetStream.UpdateConsumer(ctx, s.name(), config); err != nil {
			return fmt.Errorf("saving the position of erasures: %w", err)
		}
		s.savedDown = down
	}
	return nil
}

// An upPosition is the last message of the edge's stream that the hub has confirmed.
type upPosition struct {
	sequence uint64
	time     time.Time // at which it was stored; zero if not known
}

// A downPosition is a position in the hub's stream.
type downPosition struct {
	created  time.Time // of the stream; zero if nothing was read of it yet
	sequence uint64
	time     time.Time    // at which that message was stored
	there    confirmation // as saved
}

// A confirmation is the last message of the hub's stream that has confirmed one of the
// edge's; zero if there is none. The broker does not return when it was stored.
type confirmation struct {
	sequence uint64
	id       string // the last token of its subject
}

func idIn(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

func readDown(metadata map[string]string) (p downPosition) {
	p.sequence, _ = strconv.ParseUint(metadata[metadataErased], 10, 64)
	p.time, _ = time.Parse(time.RFC3339Nano, metadata[metadataTime])
	p.created, _ = time.Parse(time.RFC3339Nano, metadata[metadataCreated])
	p.there.sequence, _ = strconv.ParseUint(metadata[metadataThere], 10, 64)
	p.there.id = metadata[metadataID]
	return p
}
