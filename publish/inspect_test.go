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

// Inspect returns each drift of a stream with its action, and with a remedy that names
// the stream.
func TestInspect(t *testing.T) {
	cfg := publish.Config{Stream: "VERSIVE", Subject: "versive", Replicas: 1, DedupeWindow: 48 * time.Hour}
	for _, test := range []struct {
		change func(*jetstream.StreamConfig)
		cfg    func(*publish.Config)
		want   []string // action and name
	}{
		{change: func(*jetstream.StreamConfig) {}},
		{change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"a.>", "b.>"} }, want: []string{"repair subjects"}},
		{change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"versive.>", "b.>"} }},
		{change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"*.>"} }},
		{change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"versive.*"} }, want: []string{"repair subjects"}},
		{change: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, want: []string{"repair discard"}},
		{change: func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, 1 }, want: []string{"reject discards_old"}},
		{change: func(c *jetstream.StreamConfig) { c.AllowDirect = false }, want: []string{"repair direct_get"}},
		{change: func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, want: []string{"repair atomic_publish"}},
		{change: func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }, want: []string{"repair window"}},
		{change: func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = time.Hour, time.Hour }, want: []string{"tolerate window_limited"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = nil }, want: []string{"repair unclaimed"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = schema.KindQuarantine.Metadata("VERSIVE") }, want: []string{"reject owner"}},
		{change: func(c *jetstream.StreamConfig) { c.Metadata = schema.KindEvent.Metadata("OTHER") }, want: []string{"reject owner"}},
		{change: func(c *jetstream.StreamConfig) { c.DenyDelete = true }, want: []string{"tolerate deny_delete"}},
		{change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, want: []string{"tolerate subject_limit"}},
		{change: func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "OTHER"}} }, want: []string{"tolerate sources"}},
		{change: func(c *jetstream.StreamConfig) { c.Sealed, c.Duplicates = true, 0 }, want: []string{"reject sealed", "repair window"}},
		{
			change: func(*jetstream.StreamConfig) {},
			cfg:    func(c *publish.Config) { c.Replicas, c.MaxAge = 3, 72*time.Hour },
			want:   []string{"repair replicas", "tolerate max_age"},
		},
		{
			change: func(c *jetstream.StreamConfig) { c.MaxAge = 60 * time.Hour },
			cfg:    func(c *publish.Config) { c.MaxAge = 72 * time.Hour },
			want:   []string{"repair max_age"},
		},
		{
			change: func(c *jetstream.StreamConfig) {
				c.Subjects, c.DenyDelete, c.AllowDirect = []string{"a.>"}, true, false
			},
			cfg:  func(c *publish.Config) { c.Hub = true },
			want: []string{"reject deny_delete", "reject subjects", "repair direct_get"},
		},
		{
			change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
			cfg:    func(c *publish.Config) { c.Hub = true },
			want:   []string{"reject subject_limit"},
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
		for _, drift := range cfg.Inspect(schema.KindEvent, have) {
			got = append(got, [...]string{"tolerate", "repair", "reject"}[drift.Action]+" "+drift.Name)
			if drift.Problem == "" || drift.Why == "" || !strings.Contains(drift.Remedy, "VERSIVE") {
				t.Errorf("%s is not explained: %+v", drift.Name, drift)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
