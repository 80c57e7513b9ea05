package page

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/consumers"
	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	readTimeout  = 3 * time.Second // for all that is read from the broker
	shownEvents  = 50
	maxConsumers = 100
)

// A Status is what the page shows. docs/http.md describes its members to programs.
type Status struct {
	Time       time.Time          `json:"time"`
	Version    string             `json:"version"`
	Ready      bool               `json:"ready"`
	Problem    string             `json:"problem"` // why it is not ready
	LastHour   Requests           `json:"last_hour"`
	Minutes    []Minute           `json:"minutes"`    // of the last hour, or since the start
	Quarantine *uint64            `json:"quarantine"` // webhooks that wait there; nil while unknown
	Dead       *uint64            `json:"dead_letters"`
	Store      *Store             `json:"store"` // nil if the broker is not embedded
	Hub        *Hub               `json:"hub"`   // nil if events are not forwarded
	Secrets    []Secret           `json:"secrets"`
	Unread     string             `json:"unread"` // why Streams, Consumers and Events are incomplete; "" if they are not
	Streams    []Stream           `json:"streams"`
	Consumers  []consumers.Record `json:"consumers"` // the first 100 by name
	Events     []find.Event       `json:"events"`    // the last 50, the latest first
	Doctor     *Checkup           `json:"doctor"`    // nil until the first report is complete
}

// A Store is how full the embedded broker is.
type Store struct {
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint64 `json:"max_bytes"`
}

// A Hub is how far forwarding is.
type Hub struct {
	Connected     bool    `json:"connected"`
	Pending       uint64  `json:"pending"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// A Secret is a signing secret, which Fingerprint identifies.
type Secret struct {
	Position     int        `json:"position"`
	Fingerprint  string     `json:"fingerprint"`
	Organization string     `json:"organization,omitzero"`
	Verified     uint64     `json:"verified"` // requests, since the start
	LastVerified *time.Time `json:"last_verified"`
}

// A Stream is the state of a stream. A limit is 0 if there is none.
type Stream struct {
	Name          string     `json:"name"`
	Messages      uint64     `json:"messages"`
	MaxMessages   uint64     `json:"max_messages"`
	Bytes         uint64     `json:"bytes"`
	MaxBytes      uint64     `json:"max_bytes"`
	MaxAgeSeconds float64    `json:"max_age_seconds"`
	FirstSequence uint64     `json:"first_sequence"`
	LastSequence  uint64     `json:"last_sequence"`
	FirstTime     *time.Time `json:"first_time"`
	LastTime      *time.Time `json:"last_time"`
	Replicas      int        `json:"replicas"`
}

// look returns the status, which may be as old as statusAge. It may be older if the
// request has waited for it.
func (p *Page) look(r *http.Request) *Status {
	s, _, _ := p.reading.Do("", func() (any, error) {
		if p.latest == nil || time.Since(p.latest.Time) > statusAge {
			p.latest = p.read(context.WithoutCancel(r.Context())) // others get it, too
		}
		return p.latest, nil
	})
	return s.(*Status)
}

func (p *Page) read(ctx context.Context) *Status {
	checkup := p.doctor.get()
	s := &Status{Time: time.Now().UTC(), Version: p.cfg.Version, Ready: true, Doctor: checkup}
	if err := p.cfg.Ready(); err != nil {
		s.Ready, s.Problem = false, err.Error()
	}
	s.readMetrics(p)
	source, err := p.source()
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		err = s.readStreams(ctx, source)
	}
	if err != nil {
		s.Unread = err.Error()
	}
	return s
}

// source returns the streams of the ingress, or an error if there is no connection to the
// broker.
func (p *Page) source() (subscribe.Source, error) {
	js := p.cfg.JetStream()
	switch {
	case js == nil:
		return subscribe.Source{}, errors.New("the streams are not open yet")
	case !js.Conn().IsConnected():
		return subscribe.Source{}, errors.New("there is no connection to the broker")
	}
	return subscribe.Source{JetStream: js, Stream: p.cfg.Stream, Subject: p.cfg.Subject}, nil
}

// readMetrics sets what is in the metrics of the ingress.
func (s *Status) readMetrics(p *Page) {
	metrics := gather(p.cfg.Metrics)
	value := func(name string) *uint64 {
		if len(metrics[name]) == 0 {
			return nil
		}
		sum := uint64(0)
		for _, m := range metrics[name] {
			sum += uint64(m.value)
		}
		return &sum
	}
	s.LastHour, s.Minutes = p.history.lastHour(countRequests(metrics))
	s.Quarantine, s.Dead = value("versive_ingress_quarantine_events"), value("versive_ingress_dead_letter_events")
	if used, limit := value("versive_ingress_store_bytes"), value("versive_ingress_store_max_bytes"); used != nil && limit != nil {
		s.Store = &Store{*used, *limit}
	}
	if connected := value("versive_ingress_forward_connected"); connected != nil {
		s.Hub = &Hub{Connected: *connected == 1, Pending: *value("versive_ingress_forward_pending_events")}
		for _, m := range metrics["versive_ingress_forward_oldest_pending_seconds"] {
			s.Hub.OldestSeconds = max(s.Hub.OldestSeconds, m.value)
		}
	}
	verified := make(map[string]float64)
	for _, m := range metrics["versive_ingress_secret_verified_total"] {
		verified[m.labels["position"]] = m.value
	}
	for _, m := range metrics["versive_ingress_secret_last_verified_timestamp_seconds"] {
		position := m.labels["position"]
		secret := Secret{Fingerprint: m.labels["fingerprint"], Organization: m.labels["organization"], Verified: uint64(verified[position])}
		secret.Position, _ = strconv.Atoi(position)
		if m.value > 0 {
			secret.LastVerified = new(time.UnixMilli(int64(m.value * 1000)).UTC())
		}
		s.Secrets = append(s.Secrets, secret)
	}
	slices.SortFunc(s.Secrets, func(a, b Secret) int { return a.Position - b.Position })
}

// readStreams sets what is read from the broker.
func (s *Status) readStreams(ctx context.Context, source subscribe.Source) error {
	var events jetstream.Stream
	for kind := range schema.Kinds {
		stream, err := publish.OpenStream(ctx, source.JetStream, kind.Stream(source.Stream))
		if kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound) { // the first consumer to need it creates it
			continue
		}
		if err != nil {
			return err
		}
		if kind == schema.KindEvent {
			events = stream
		}
		s.Streams = append(s.Streams, newStream(stream.CachedInfo()))
	}
	last, err := find.Finder{Source: source}.Newest(ctx, shownEvents)
	if err != nil {
		return err
	}
	slices.Reverse(last)
	s.Events = last
	list, err := publish.ReadConsumers(ctx, events, maxConsumers)
	for _, c := range list {
		s.Consumers = append(s.Consumers, consumers.NewRecord(c))
	}
	return err
}

func newStream(info *jetstream.StreamInfo) Stream {
	config, state := info.Config, info.State
	s := Stream{
		Name: config.Name, Messages: state.Msgs, Bytes: state.Bytes, FirstSequence: state.FirstSeq, LastSequence: state.LastSeq,
		MaxMessages: uint64(max(0, config.MaxMsgs)), MaxBytes: uint64(max(0, config.MaxBytes)), MaxAgeSeconds: config.MaxAge.Seconds(), Replicas: config.Replicas,
	}
	if state.Msgs > 0 {
		s.FirstTime = new(state.FirstTime.UTC())
	}
	if state.LastSeq > 0 {
		s.LastTime = new(state.LastTime.UTC())
	}
	return s
}
