package publish_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/schema"
)

// What somebody has made of a stream is named, with what is done about it and
// a remedy that names the stream.
func TestInspect(t *testing.T) {
	cfg := publish.Config{Stream: "VERSIVE", Subject: "versive", Replicas: 1, DedupeWindow: 48 * time.Hour}
	for _, test := range []struct {
		change func(*jetstream.StreamConfig)
		cfg    func(*publish.Config)
		want   []string // weight and name
	}{
		{change: func(*jetstream.StreamConfig) {}},
		{change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"a.>", "b.>"} }, want: []string{"widened subjects"}},
		{change: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, want: []string{"widened discard"}},
		{change: func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, 1 }, want: []string{"refused discards_old"}},
		{change: func(c *jetstream.StreamConfig) { c.AllowDirect = false }, want: []string{"widened direct_get"}},
		{change: func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, want: []string{"widened atomic_publish"}},
		{change: func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }, want: []string{"widened window"}},
		{change: func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = time.Hour, time.Hour }, want: []string{"kept window_limited"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = nil }, want: []string{"widened unclaimed"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = schema.KindQuarantine.Metadata("VERSIVE") }, want: []string{"refused owner"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = schema.KindEvent.Metadata("OTHER") }, want: []string{"refused owner"}},
		{change: func(c *jetstream.StreamConfig) { c.DenyDelete = true }, want: []string{"kept deny_delete"}},
		{change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, want: []string{"kept subject_limit"}},
		{change: func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "OTHER"}} }, want: []string{"kept sources"}},
		{change: func(c *jetstream.StreamConfig) { c.Sealed, c.Duplicates = true, 0 }, want: []string{"refused sealed", "widened window"}},
		{
			change: func(*jetstream.StreamConfig) {},
			cfg:    func(c *publish.Config) { c.Replicas, c.MaxAge = 3, 72*time.Hour },
			want:   []string{"widened replicas", "kept max_age"},
		},
		{
			change: func(c *jetstream.StreamConfig) { c.MaxAge = 60 * time.Hour },
			cfg:    func(c *publish.Config) { c.MaxAge = 72 * time.Hour },
			want:   []string{"widened max_age"},
		},
	} {
		have, cfg := byHand(func(c *jetstream.StreamConfig) {
			c.Replicas, c.Metadata = 1, schema.KindEvent.Metadata("VERSIVE")
			test.change(c)
		}), cfg
		if test.cfg != nil {
			test.cfg(&cfg)
		}
		var got []string
		for _, gap := range cfg.Inspect(schema.KindEvent, have) {
			got = append(got, [...]string{"kept", "widened", "refused"}[gap.Weight]+" "+gap.Name)
			if gap.Problem == "" || gap.Why == "" || !strings.Contains(gap.Remedy, "VERSIVE") {
				t.Errorf("%s is not explained: %+v", gap.Name, gap)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
