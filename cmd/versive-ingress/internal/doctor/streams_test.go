package doctor_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

func asCreated(*jetstream.StreamConfig) {}

// Streams that an operator has changed. They are all on the broker of one
// ingress, under names of their own.
func TestRunOnStreams(t *testing.T) {
	t.Parallel()
	good := newSettings(t)
	sys := run(t, good)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	fill := func(n int) func(*testing.T, config.Settings, *doctor.Config) {
		return func(t *testing.T, s config.Settings, _ *doctor.Config) {
			for i := range n {
				if _, err := js.Publish(t.Context(), fmt.Sprintf("%s.interview.completed.s.i.%d", s.Subject, i), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	consumer := func(c jetstream.ConsumerConfig) func(*testing.T, config.Settings, *doctor.Config) {
		return func(t *testing.T, s config.Settings, d *doctor.Config) {
			fill(2)(t, s, d)
			c.Durable = "reports"
			if _, err := js.CreateConsumer(t.Context(), s.Stream, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep := func(kind schema.Kind, headers ...string) func(*testing.T, config.Settings, *doctor.Config) {
		return func(t *testing.T, s config.Settings, _ *doctor.Config) {
			if kind == schema.KindDead {
				if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: kind.Stream(s.Stream), Subjects: []string{kind.Prefix(s.Subject) + ".>"}}); err != nil {
					t.Fatal(err)
				}
			}
			msg := nats.NewMsg(kind.Prefix(s.Subject) + ".msg_1")
			for _, header := range headers {
				msg.Header.Set(header, "1")
			}
			if _, err := js.PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		stream  func(*jetstream.StreamConfig)
		prepare func(*testing.T, config.Settings, *doctor.Config)
		want    []string // of $ is the stream
	}{
		"good": {asCreated, fill(3), nil},
		"silent": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			fill(1)(t, s, d)
			d.Silence, d.Now = time.Hour, func() time.Time { return time.Now().Add(2 * time.Hour) }
		}, []string{"unknown silent: versive-ingress doctor --probe --url", "problem clock: timedatectl"}},
		"neversent": {asCreated, func(_ *testing.T, _ config.Settings, d *doctor.Config) { d.Silence = time.Hour }, []string{"unknown silent: endpoint's page"}},
		"notsilent": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) { fill(1)(t, s, d); d.Silence = time.Hour }, nil},
		"foreign": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			fill(1)(t, s, d)
			if _, err := js.Publish(t.Context(), s.Subject+".test", nil); err != nil {
				t.Fatal(err)
			}
		}, []string{"warning foreign_messages: nats stream view $ --subject 'foreign.test'"}},
		"workqueue":  {func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, nil, []string{"problem stream_retention: export INGRESS_STREAM=$_2"}},
		"memory":     {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, nil, []string{"problem stream_storage: export INGRESS_STREAM=$_2"}},
		"discardold": {func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, 10 }, nil, []string{"problem stream_discards_old: nats stream edit $ --discard new"}},
		"unlimited":  {func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, nil, []string{"warning stream_discard: nats stream edit $ --discard new"}},
		"noack":      {func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false }, nil, []string{"problem stream_no_ack: INGRESS_SUBJECT=noack-2", "warning stream_atomic_publish: nats stream edit $ --allow-batch"}},
		"async": {func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		}, nil, []string{"problem stream_persist_mode: export INGRESS_STREAM=$_2", "warning stream_atomic_publish: --allow-batch"}},
		"transform": {func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "transform.>", Destination: "b.>"}
		}, nil, []string{"problem stream_transform: export INGRESS_STREAM=$_2"}},
		"persubject": {func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject, c.MaxMsgsPerSubject = true, 1 }, nil, []string{"problem stream_discard_new_per_subject: nats stream edit $ --no-discard-per-subject", "warning stream_subject_limit: --max-msgs-per-subject=-1"}},
		"mirror": {func(c *jetstream.StreamConfig) {
			*c = jetstream.StreamConfig{Name: c.Name, Mirror: &jetstream.StreamSource{Name: "VERSIVE"}, Discard: jetstream.DiscardNew}
		}, nil, []string{"problem stream_mirror: export INGRESS_STREAM=$_2", "problem stream_subjects: --subjects 'mirror.>'", "warning stream_direct_get: --allow-direct", "warning stream_atomic_publish: --allow-batch", "warning stream_unclaimed: nats stream edit $ --metadata", "warning stream_window: --dupe-window 48h0m0s"}},
		"unclaimed": {func(c *jetstream.StreamConfig) { c.Metadata = nil }, nil, []string{"warning stream_unclaimed: nats stream edit $ --metadata versive-ingress.kind=event --metadata versive-ingress.stream=$"}},
		"owner":     {func(c *jetstream.StreamConfig) { c.Metadata = schema.KindDead.Metadata("OTHER") }, nil, []string{"problem stream_owner: export INGRESS_STREAM=$_2 INGRESS_SUBJECT=owner-2"}},
		"deadowner": {asCreated, func(t *testing.T, s config.Settings, _ *doctor.Config) {
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: s.Stream + "_DEAD", Metadata: schema.KindEvent.Metadata(s.Stream + "_DEAD")}); err != nil {
				t.Fatal(err)
			}
		}, []string{"problem stream_owner: export INGRESS_STREAM=$_2"}},
		"sealed":   {func(c *jetstream.StreamConfig) { c.Sealed = true }, nil, []string{"problem stream_sealed: export INGRESS_STREAM=$_2", "warning stream_deny_delete: export INGRESS_STREAM=$_2"}},
		"subjects": {func(c *jetstream.StreamConfig) { c.Subjects = []string{"before.>"} }, nil, []string{"problem stream_subjects: nats stream edit $ --subjects 'before.>' --subjects 'subjects.>'"}},
		"window":   {func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }, nil, []string{"warning stream_window: nats stream edit $ --dupe-window 48h0m0s"}},
		"shortwindow": {func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour }, func(_ *testing.T, _ config.Settings, d *doctor.Config) { d.Settings.DedupeWindow = time.Hour }, []string{
			"warning window_short: unset INGRESS_DEDUPE_WINDOW",
		}},
		"age":        {func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = time.Hour, time.Hour }, nil, []string{"problem age_short: nats stream edit $ --max-age 48h0m0s --dupe-window 48h0m0s"}},
		"setage":     {func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = time.Hour, time.Hour }, func(_ *testing.T, _ config.Settings, d *doctor.Config) { d.Settings.MaxAge = time.Hour }, []string{"problem age_short: export INGRESS_MAX_AGE=48h", "warning stream_max_age: nats stream edit $_QUARANTINE --max-age 1h0m0s"}},
		"someage":    {func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 30*time.Hour, 30*time.Hour }, nil, []string{"warning stream_window_limited: nats stream edit $ --max-age 48h0m0s --dupe-window 48h0m0s"}},
		"denydelete": {func(c *jetstream.StreamConfig) { c.DenyDelete = true }, nil, []string{"warning stream_deny_delete: export INGRESS_STREAM=$_2"}},
		"sources":    {func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "VERSIVE"}} }, nil, []string{"warning stream_sources: nats stream edit $ --interactive"}},
		"atomic":     {func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, nil, []string{"warning stream_atomic_publish: nats stream edit $ --allow-batch"}},
		"direct":     {func(c *jetstream.StreamConfig) { c.AllowDirect = false }, nil, []string{"warning stream_direct_get: nats stream edit $ --allow-direct"}},
		"covered":    {func(c *jetstream.StreamConfig) { c.Subjects = []string{"covered.interview.>", "b.>"} }, nil, []string{"problem stream_subjects: nats stream edit $ --subjects 'b.>' --subjects 'covered.>'"}},
		"small":      {func(c *jetstream.StreamConfig) { c.MaxMsgSize = 4 << 10 }, nil, []string{"problem message_size: nats stream edit $ --max-msg-size 8519680"}},
		"size":       {func(c *jetstream.StreamConfig) { c.MaxMsgSize = 4 << 20 }, nil, []string{"warning message_size: nats stream edit $ --max-msg-size 8519680"}},
		"full":       {func(c *jetstream.StreamConfig) { c.MaxMsgs = 3 }, fill(3), []string{"problem stream_full: nats stream edit $ --max-msgs 6"}},
		"fullbytes":  {func(c *jetstream.StreamConfig) { c.MaxBytes = 142 }, fill(2), []string{"warning stream_full: nats stream edit $ --max-bytes 16777216"}},
		"nearlyfull": {func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }, fill(9), []string{"warning stream_full: nats stream edit $ --max-msgs 20"}},

		"quarantine": {asCreated, keep(schema.KindQuarantine, schema.HeaderReason), []string{"warning quarantine_not_empty: versive-ingress quarantine list"}},
		"dead":       {asCreated, keep(schema.KindDead, schema.HeaderReason), []string{"warning dead_letters: versive-ingress deadletters list"}},

		"foreignkept": {asCreated, keep(schema.KindQuarantine), []string{"warning foreign_messages: nats stream view $_QUARANTINE --subject 'foreignkept-quarantine.msg_1'"}},
		"deadmemory": {asCreated, func(t *testing.T, s config.Settings, _ *doctor.Config) {
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: s.Stream + "_DEAD", Storage: jetstream.MemoryStorage}); err != nil {
				t.Fatal(err)
			}
		}, []string{"warning stream_storage: nats stream rm $_DEAD"}},
		"erasure": {asCreated, keep(schema.KindDead, schema.HeaderErased, schema.HeaderReason), []string{"warning dead_letters: versive-ingress deadletters list"}},
		"settled": {asCreated, keep(schema.KindDead, schema.HeaderErased), nil},
		"request": {asCreated, keep(schema.KindDead, schema.HeaderRequeue), nil},

		"givesup":  {asCreated, consumer(jetstream.ConsumerConfig{MaxDeliver: 3, AckPolicy: jetstream.AckExplicitPolicy}), []string{"warning consumer_gives_up: nats consumer edit $ reports --max-deliver=-1"}},
		"consnack": {asCreated, consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}), []string{"warning consumer_no_ack: nats consumer copy $ reports reports_2 --ack explicit"}},
		"paused": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			until := time.Now().Add(time.Hour)
			consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, PauseUntil: &until})(t, s, d)
		}, []string{"warning consumer_paused: nats consumer resume $ reports"}},
		"idle": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})(t, s, d)
			d.Idle = time.Nanosecond
		}, []string{"warning consumer_idle: versive-ingress consumers delete reports"}},
		"behind": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})(t, s, d)
			d.Lag = time.Nanosecond
		}, []string{"warning consumer_behind: versive-ingress consumers"}},
		"filter": {asCreated, consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"filter.interview.*.s", "filter.interview.*.*.i.>", "other.>"}}), []string{
			"warning consumer_filter: nats consumer edit $ reports --filter 'filter.interview.*.s.>' --filter 'filter.interview.*.*.i.>' --filter 'filter.>'",
		}},
		"unacknowledged": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})(t, s, d)
			reports, err := js.Consumer(t.Context(), s.Stream, "reports")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := reports.Next(); err != nil {
					t.Fatal(err)
				}
			}
			d.Lag = time.Nanosecond
		}, []string{"warning consumer_behind: versive-ingress consumers"}},
		"stuck": {asCreated, func(t *testing.T, s config.Settings, d *doctor.Config) {
			consumer(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1})(t, s, d)
			reports, err := js.Consumer(t.Context(), s.Stream, "reports")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reports.Next(); err != nil {
				t.Fatal(err)
			}
			d.Idle = time.Nanosecond
		}, []string{"warning consumer_stuck: nats consumer edit $ reports --max-pending 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := byHand(t, js, good, name, test.stream)
			s.AdminListen = fakeAdmin(t, "") // the ingress has another stream
			d := newDoctor(s)
			if test.prepare != nil {
				test.prepare(t, s, d)
			}
			for i, want := range test.want {
				test.want[i] = strings.ReplaceAll(want, "$", s.Stream)
			}
			requireFindings(t, d, test.want...)
		})
	}
}

// An ingress that is not ready is a problem by itself, and so is its cause; and
// a probe that is answered 202 must be where the settings say.
func TestRunOnIngress(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())

	other := newDoctor(byHand(t, js, s, "other", asCreated))
	other.Probe = true
	requireFindings(t, other, "problem stream_differs: systemctl restart", "problem probe_lost: nats stream ls")

	away, monitor := startMonitored(t)
	limited := newSettings(t)
	limited.NATSURL, limited.NATSListen, limited.MaxBody = away.URL(), "", 2<<20
	run(t, limited)
	small := newDoctor(limited)
	small.Probe, small.Monitors, small.Settings.MaxBody = true, []string{monitor}, 0
	requireFindings(t, small, "problem probe_limited: systemctl restart")

	stream, err := js.Stream(t.Context(), s.Stream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Discard, config.MaxMsgs = jetstream.DiscardOld, 5
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "readyz 503", func() bool { status, _ := readyz(t, s); return status == http.StatusServiceUnavailable })
	d := newDoctor(s)
	d.Probe = true
	requireFindings(t, d, "problem not_ready: versive-ingress health", "problem stream_discards_old: nats stream edit VERSIVE --discard new", "warning quarantine_not_empty: versive-ingress quarantine list", "problem probe_refused: versive-ingress health")
}

// The remedy for settings that are not those of the ingress is the documented command.
func TestRemedyIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newSettings(t)
	run(t, s)
	d := newDoctor(s)
	d.Settings.DataDir = "nowhere"
	documented := strings.ReplaceAll(string(text), "\\\n  ", "")
	for _, f := range findings(t, d) {
		if command, _, _ := strings.Cut(f[2], "  # "); strings.Contains(command, "versive-ingress") && strings.Contains(documented, command+"\n") {
			return
		}
	}
	t.Error("no remedy is in docs/operations.md")
}
