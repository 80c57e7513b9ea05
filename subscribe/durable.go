package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream that nats.go does not define.
const (
	errCodeMaxBytesRequired jetstream.ErrorCode = 10113 // of a stream
	errCodeMaxAckPending    jetstream.ErrorCode = 10121 // is above the limit of the server, account or stream
)

// durable creates the durable consumer, or updates an existing one, which resumes
// from its position. It returns an error if the existing one would skip events
// that c selects. MaxDeliver is unlimited: the broker would otherwise stop
// delivering an event without a report.
func (s Source) durable(ctx context.Context, stream *jetstream.StreamInfo, c Consumer) (jetstream.Consumer, error) {
	subject := cmp.Or(c.Subject, c.Filter.Subject(s.subject()))
	if !slices.ContainsFunc(stream.Config.Subjects, func(s string) bool { return overlap(s, subject) }) {
		return nil, fmt.Errorf("reads %s, but stream %s has only the subjects %q: no event can match; correct Subject, Filter or Source.Subject",
			subject, stream.Config.Name, stream.Config.Subjects)
	}
	config := jetstream.ConsumerConfig{Durable: c.Durable}
	create := s.JetStream.CreateConsumer
	existing, err := s.JetStream.Consumer(ctx, stream.Config.Name, c.Durable)
	switch {
	case err == nil:
		if err := c.checkExisting(subject, stream.Config, existing.CachedInfo()); err != nil {
			return nil, err
		}
		config = existing.CachedInfo().Config
		create = s.JetStream.UpdateConsumer
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, err
	case !c.Since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &c.Since
	}
	config.FilterSubject, config.FilterSubjects = subject, nil
	config.AckPolicy = jetstream.AckExplicitPolicy
	config.AckWait, config.BackOff = c.AckWait, nil
	config.MaxDeliver = -1
	config.HeadersOnly = false
	config.MaxAckPending = max(cmp.Or(config.MaxAckPending, 1000), c.Concurrency)
	config.MaxRequestBatch, config.MaxRequestMaxBytes, config.MaxRequestExpires = 0, 0, 0
	durable, err := create(ctx, stream.Config.Name, config)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == errCodeMaxAckPending {
		config.MaxAckPending = 0 // what the server, the account or the stream allows
		durable, err = create(ctx, stream.Config.Name, config)
	}
	if errors.Is(err, jetstream.ErrConsumerExists) { // another process has created it meanwhile, with another configuration
		return s.durable(ctx, stream, c)
	}
	if err != nil {
		return nil, err
	}
	info := durable.CachedInfo()
	if stream.State.Msgs > 0 && info.NumPending == 0 && info.Delivered.Consumer == 0 && c.Since.IsZero() {
		c.Logger.Warn("no stored event matches the consumer's filter", "consumer", c.Durable, "filter", subject, "stored", stream.State.Msgs)
	}
	return durable, nil
}

// checkExisting returns an error if the durable consumer that exists would skip
// events that c selects: the broker does not go back for events that match a
// changed filter, or an earlier Since.
func (c Consumer) checkExisting(subject string, stream jetstream.StreamConfig, info *jetstream.ConsumerInfo) error {
	have := info.Config.FilterSubjects
	if info.Config.FilterSubject != "" {
		have = []string{info.Config.FilterSubject}
	}
	if len(have) == 0 { // it has no filter
		have = stream.Subjects
	}
	remedy := fmt.Sprintf("choose another Durable, or delete this one (nats consumer rm %s %s): a new one begins at Since, or with the first event", stream.Name, c.Durable)
	if !slices.Equal(have, []string{subject}) {
		return fmt.Errorf("exists and reads %s, not %s: with another filter it would skip events that were stored before; %s", strings.Join(have, ", "), subject, remedy)
	}
	if c.Since.IsZero() {
		return nil
	}
	switch began := info.Config.OptStartTime; {
	case began != nil && c.Since.Before(*began):
		return fmt.Errorf("exists and began with the events stored at %v, not at %v (Since): it would skip the events stored between; %s", began, c.Since, remedy)
	case began == nil || c.Since.After(*began):
		c.Logger.Warn("consumer exists and resumes from its position; Since is ignored", "consumer", c.Durable, "since", c.Since)
	}
	return nil
}

// overlap reports whether a subject can match both patterns.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		switch {
		case i == len(x) || i == len(y):
			return len(x) == len(y)
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != y[i] && x[i] != "*" && y[i] != "*":
			return false
		}
	}
}
