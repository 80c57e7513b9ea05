package find_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

var events = flag.Int("find.events", 200, "how many events TestFind stores; it logs how long finding them takes")

func TestMain(m *testing.M) { os.Exit(embeddedtest.Run(m)) }

// put stores a message without an ingress.
func put(t *testing.T, js jetstream.JetStream, m schema.Message) {
	t.Helper()
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
		t.Fatal(err)
	}
}

// body is that of an interview.
func body(study, interview string) []byte {
	return fmt.Appendf(nil, `{"event_type":"interview.completed","interview":{"id":%q,"title":"MARKER"},"study":{"id":%q}}`, interview, study)
}

// A stored message, as nats.go reads it.
type stored struct {
	subject      string
	sequence     uint64
	time         time.Time
	organization string
	erased       bool
}

func (s stored) token(i int) string { return strings.Split(s.subject, ".")[i] }

// readStream reads the whole event stream with nothing of the project.
func readStream(t *testing.T, js jetstream.JetStream) (all []stored) {
	t.Helper()
	consumer, err := js.OrderedConsumer(t.Context(), "VERSIVE", jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next()
		if err != nil {
			t.Fatal(err)
		}
		metadata, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stored{
			m.Subject(), metadata.Sequence.Stream, metadata.Timestamp.UTC(),
			strings.Join(m.Headers()["ce-organization"], " "), len(m.Headers()["Ingress-Erased"]) > 0,
		})
		if metadata.NumPending == 0 {
			return all
		}
	}
}

// A reader is a durable consumer, with what it has done.
type reader struct {
	config   jetstream.ConsumerConfig
	selects  func(stored) bool
	consumer jetstream.Consumer
	acked    map[uint64]bool // of what was delivered
}

// take receives n events and acknowledges those that ack selects.
func (r *reader) take(t *testing.T, n int, ack func(i int) bool) {
	t.Helper()
	for i := 0; i < n; {
		batch, err := r.consumer.FetchNoWait(min(500, n-i))
		if err != nil {
			t.Fatal(err)
		}
		before := i
		for m := range batch.Messages() {
			metadata, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			acked := ack(i)
			r.acked[metadata.Sequence.Stream] = acked
			if acked {
				if err := m.Ack(); err != nil {
					t.Fatal(err)
				}
			}
			i++
		}
		if batch.Error() != nil || i == before {
			t.Fatalf("received %d of %d: %v", i, n, batch.Error())
		}
	}
	unacknowledged := 0
	for _, acked := range r.acked {
		if !acked {
			unacknowledged++
		}
	}
	embeddedtest.Await(t, "the acknowledgements have arrived", func() bool {
		info, err := r.consumer.Info(t.Context())
		return err == nil && info.NumAckPending == unacknowledged
	})
}

// Everything that is reported of events, interviews and studies, of any organization and
// of each, agrees with what nats.go reads and with what the consumers have done.
func TestFind(t *testing.T) {
	t.Parallel()
	ctx, n := t.Context(), *events
	stream := embeddedtest.Start(t)
	js := stream.JetStream
	random := rand.New(rand.NewPCG(1, 2))
	readers := map[string]*reader{
		"all":    {selects: func(stored) bool { return true }},
		"gaps":   {selects: func(stored) bool { return true }, config: jetstream.ConsumerConfig{MaxAckPending: -1}},
		"held":   {selects: func(stored) bool { return true }, config: jetstream.ConsumerConfig{MaxAckPending: -1}},
		"from":   {selects: func(s stored) bool { return s.sequence >= uint64(n/3) }, config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(n / 3)}},
		"late":   {selects: func(s stored) bool { return s.sequence > uint64(n/2) }, config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}},
		"idle":   {selects: func(stored) bool { return true }},
		"filter": {selects: func(s stored) bool { return s.token(3) == "study_0" || s.token(3) == "study_3" }, config: jetstream.ConsumerConfig{FilterSubjects: []string{"versive.*.*.study_0.>", "versive.interview.completed.study_3.*.*"}}},
	}
	for i := range n {
		if i%1000 == 0 || i == n/2 {
			awaitPublished(t, js)
		}
		if i == n/2 { // only one of them depends on when it is created
			for name, r := range readers {
				r.config.Durable, r.config.AckPolicy, r.config.AckWait = name, jetstream.AckExplicitPolicy, time.Hour
				var err error
				if r.consumer, err = js.CreateConsumer(ctx, "VERSIVE", r.config); err != nil {
					t.Fatal(err)
				}
				r.acked = map[uint64]bool{}
			}
		}
		study := 0
		if i%2 == 1 {
			study = i % 20
		}
		m, err := schema.Normalize(fmt.Sprint("msg_", i), body(fmt.Sprint("study_", study), fmt.Sprint("interview ", i-i%100/99))) // two events of one in a hundred
		if err != nil {
			t.Fatal(err)
		}
		m = m.WithOrganization([]string{"acme", "globex", ""}[random.IntN(3)])
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
	awaitPublished(t, js)
	always := func(int) bool { return true }
	readers["all"].take(t, n, always)
	readers["gaps"].take(t, n*9/10-1, func(int) bool { return random.IntN(10) > 0 })
	readers["held"].take(t, n/2-1, func(i int) bool { return i < n/4 })
	readers["from"].take(t, n/3, always)
	readers["late"].take(t, n/10, func(i int) bool { return i != 5 })
	readers["filter"].take(t, n/10, always)
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	for _, i := range []int{1, n / 2, n - 3} { // erased
		s := readStream(t, js)[i]
		if err := eraser.Erase(ctx, publish.Copy{Kind: schema.KindEvent, Subject: s.subject, Sequence: s.sequence}); err != nil {
			t.Fatal(err)
		}
	}

	// The tombstone of a webhook that was erased in the quarantine has no organization.
	if err := eraser.PutTombstone(ctx, schema.KindEvent, "versive.interview.completed.study_1.unknown.msg_unknown"); err != nil {
		t.Fatal(err)
	}

	all := readStream(t, js)
	finder := find.Finder{Source: subscribe.Source{JetStream: js, Stream: "VERSIVE", Subject: "versive"}}
	slowest := map[string]time.Duration{}
	check := func(kind, id string, selected func(stored) bool) {
		t.Helper()
		for _, organization := range []string{"", "acme", "globex", "initech"} {
			finder.Organization = organization
			want := slices.DeleteFunc(slices.Clone(all), func(s stored) bool {
				of := organization == "" || s.organization == organization || s.organization == "" && s.erased
				return !selected(s) || !of
			})
			began := time.Now()
			reports, err := finder.Find(ctx, id)
			slowest[organization] = max(slowest[organization], time.Since(began))
			switch {
			case err != nil || len(reports) != min(1, len(want)):
				t.Fatalf("%s %s of %q: %+v, %v; want %d", kind, id, organization, reports, err, len(want))
			case len(want) == 0:
			case reports[0].Kind != kind || reports[0].Organization != organization:
				t.Fatalf("%s %s of %q: got %+v", kind, id, organization, reports[0])
			default:
				checkReport(t, reports[0], want, readers)
			}
		}
	}
	for range 15 {
		s := all[random.IntN(len(all))]
		check("event", s.token(5), func(other stored) bool { return other.token(5) == s.token(5) })
		interview, err := schema.Unescape(s.token(4))
		if err != nil {
			t.Fatal(err)
		}
		check("interview", interview, func(other stored) bool { return other.token(4) == s.token(4) })
	}
	edges := slices.Clone(all[len(all)-4:]) // the tombstones
	for _, r := range readers {
		info, err := r.consumer.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.sequence == info.AckFloor.Stream || s.sequence == info.Delivered.Stream || s.sequence == info.Delivered.Stream+1 {
				edges = append(edges, s)
			}
		}
	}
	for _, s := range edges {
		check("event", s.token(5), func(other stored) bool { return other.token(5) == s.token(5) })
	}
	for _, study := range []string{"study_0", "study_1", "study_3", "study_19"} {
		check("study", study, func(other stored) bool { return other.token(3) == study })
	}
	t.Logf("%d events, %d consumers: the slowest of the ids took, by organization: %v", n, len(readers), slowest)

	newest, err := finder.Newest(ctx, 50)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range newest {
		if s := all[len(all)-50+i]; len(newest) != 50 || e.Sequence != s.sequence || e.Subject != s.subject {
			t.Fatalf("event %d of the newest %d is %+v, want %+v", i, len(newest), e, s)
		}
	}
}

func awaitPublished(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	embeddedtest.Receive(t, "everything is published", js.PublishAsyncComplete())
}

// checkReport compares a report with the messages that it is about.
func checkReport(t *testing.T, r find.Report, want []stored, readers map[string]*reader) {
	t.Helper()
	erased, interviews := 0, map[string]bool{}
	for _, s := range want {
		if s.erased {
			erased++
		}
		interviews[s.token(4)] = true
	}
	if r.Events != uint64(len(want)) || r.Interviews == nil || *r.Interviews != len(interviews) || !r.First.Equal(want[0].time) || !r.Last.Equal(want[len(want)-1].time) {
		t.Errorf("%s %s: got %+v, want %d events", r.Kind, r.ID, r, len(want))
	}
	if (r.Erased == nil) != (len(want) > find.Listed && r.Organization == "") || r.Erased != nil && *r.Erased != erased {
		t.Errorf("%s %s: %v are erased, want %d", r.Kind, r.ID, r.Erased, erased)
	}
	for i, s := range want[max(0, len(want)-find.Listed):] {
		if i >= len(r.List) {
			t.Fatalf("%s %s: %d events are listed", r.Kind, r.ID, len(r.List))
		}
		e := r.List[i]
		if e.Stream != "VERSIVE" || e.Sequence != s.sequence || e.Subject != s.subject || !e.Time.Equal(s.time) || e.Erased != s.erased || e.Organization != s.organization || schema.Escape(e.Interview) != s.token(4) {
			t.Errorf("%s %s: got %+v, want %+v", r.Kind, r.ID, e, s)
		}
		for name, reader := range readers {
			acked, delivered := reader.acked[s.sequence]
			allowed := []find.State{find.Waiting}
			switch {
			case !reader.selects(s):
				allowed = []find.State{find.NotSelected}
			case delivered && name == "gaps":
				allowed = []find.State{find.Delivered, map[bool]find.State{true: find.Acknowledged, false: find.Unacknowledged}[acked]}
			case delivered && name == "late":
				allowed = []find.State{find.Delivered, map[bool]find.State{true: find.Acknowledged, false: find.Unacknowledged}[acked]}
			case acked:
				allowed = []find.State{find.Acknowledged}
			case delivered:
				allowed = []find.State{find.Unacknowledged}
			}
			if !slices.Contains(allowed, e.Consumers[name]) {
				t.Errorf("%s %s: event %d of consumer %s is %q, want %q", r.Kind, r.ID, s.sequence, name, e.Consumers[name], allowed)
			}
		}
	}
	if len(r.Consumers) != len(readers) {
		t.Errorf("%s %s: %d consumers", r.Kind, r.ID, len(r.Consumers))
	}
	for _, got := range r.Consumers {
		reader := readers[got.Consumer]
		var selected, acked, unacked uint64
		for _, s := range want {
			was, delivered := reader.acked[s.sequence]
			switch {
			case !reader.selects(s):
				continue
			case was:
				acked++
			case delivered:
				unacked++
			}
			selected++
		}
		known := got.Acknowledged + got.Unacknowledged
		if got.NotSelected != uint64(len(want))-selected || got.Waiting != selected-acked-unacked || known+got.Delivered != acked+unacked ||
			got.Acknowledged > acked || got.Unacknowledged > unacked {
			t.Errorf("%s %s: got %+v, want %d of %d, %d acknowledged, %d not", r.Kind, r.ID, got, selected, len(want), acked, unacked)
		}
		if exact := got.Consumer != "gaps" && got.Consumer != "late"; exact && got.Delivered > 0 {
			t.Errorf("%s %s: the acknowledgements of consumer %s are not known: %+v", r.Kind, r.ID, got.Consumer, got)
		}
		info, err := reader.consumer.Info(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got.Pending != info.NumPending || got.AckPending != info.NumAckPending {
			t.Errorf("%s: got %+v, want %d pending, %d not acknowledged", got.Consumer, got, info.NumPending, info.NumAckPending)
		}
	}
}

// Webhooks in the quarantine and dead letters are found by svix-id, interview and study,
// and so are those that were erased or requeued.
func TestFindHeld(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	stream := embeddedtest.Start(t)
	js := stream.JetStream
	source := subscribe.Source{JetStream: js, Stream: "VERSIVE", Subject: "versive"}
	finder := find.Finder{Source: source}
	later := []byte(strings.Replace(string(body("study_1", "i_1")), "completed", "started", 1))
	_, err := schema.Normalize("msg_q", later)
	problem, ok := errors.AsType[*schema.Error](err)
	if !ok {
		t.Fatal(err)
	}
	put(t, js, schema.Quarantine("msg_q", later, problem, nil))
	put(t, js, schema.Quarantine("msg_text", []byte("MARKER"), problem, nil))

	put(t, js, schema.Quarantine("msg_acme", later, problem, nil).WithOrganization("acme"))
	for i := range 1000 { // which came later
		m := schema.Quarantine(fmt.Sprint("msg_later_", i), []byte("MARKER"), problem, nil)
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
	awaitPublished(t, js)

	describe := func(id string) (text []string) {
		t.Helper()
		reports, err := finder.Find(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range reports {
			text = append(text, fmt.Sprintf("%s: %d events", r.Kind, r.Events))
			for _, h := range append(r.Quarantined, r.DeadLetters...) {
				text = append(text, strings.TrimSpace(fmt.Sprintf("%s %d %s %s %s %v", h.Stream, h.Sequence, h.ID, h.Reason, h.Consumer, h.Erased)))
				if h.Requeued != nil {
					text = append(text, "requeued")
				}
			}
			for _, e := range r.List {
				text = append(text, fmt.Sprintf("%d %v", e.Sequence, e.Consumers))
			}
		}
		return text
	}
	expect := func(id string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, describe(id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	const (
		quarantined = "VERSIVE_QUARANTINE 1 msg_q unsupported_type  false"
		ofAcme      = "VERSIVE_QUARANTINE 3 msg_acme unsupported_type  false"
	)
	expect("msg_q", "event: 0 events", quarantined)
	expect("i_1", "interview: 0 events", quarantined, ofAcme)
	expect("study_1", "study: 0 events", quarantined, ofAcme)
	finder.Organization = "acme"
	expect("msg_q")
	expect("msg_acme", "event: 0 events", ofAcme)
	expect("study_1", "study: 0 events", ofAcme)
	finder.Organization = ""
	expect("msg_text", "event: 0 events", "VERSIVE_QUARANTINE 2 msg_text unsupported_type  false")
	expect("i_2")

	// A consumer gives up on an event, whose interview has a webhook in the quarantine.
	if err := source.EnsureDeadLetters(ctx); err != nil {
		t.Fatal(err)
	}
	event, err := schema.Normalize("msg_1", body("study_1", "i_1"))
	if err != nil {
		t.Fatal(err)
	}
	event = event.WithOrganization("globex")
	put(t, js, event)
	subject := event.Subject("versive")
	put(t, js, schema.DeadLetter(schema.Dead{Consumer: "reports", Reason: "no space", ID: "msg_1", Subject: subject, Sequence: 1, Deliveries: 5}, event.Header, event.Data))
	consumer, err := js.CreateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	m, err := consumer.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(ctx); err != nil {
		t.Fatal(err)
	}
	const letter = "VERSIVE_DEAD 1 msg_1 no space reports false"
	expect("msg_1", "event: 1 events", letter, "1 map[reports:dead_lettered]")
	expect("i_1", "interview: 1 events", quarantined, ofAcme, letter, "1 map[reports:dead_lettered]")
	expect("study_1", "study: 1 events", quarantined, ofAcme, letter, "1 map[reports:dead_lettered]")
	finder.Organization = "globex"
	expect("msg_1", "event: 1 events", letter, "1 map[reports:dead_lettered]")
	finder.Organization = "acme"
	expect("msg_1")
	finder.Organization = ""

	// The dead letter is requeued, which the requests of other letters do not show.
	put(t, js, schema.Requeue("archive", "msg_1", 7))
	put(t, js, schema.Requeue("reports", "msg_1", 1))
	for _, organization := range []string{"", "globex"} {
		finder.Organization = organization
		expect("msg_1", "event: 1 events", letter, "requeued", "1 map[reports:dead_lettered]")
	}
	expect("i_1", "interview: 1 events", letter, "requeued", "1 map[reports:dead_lettered]")
	finder.Organization = ""

	// Both are erased.
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	for kind, subject := range map[schema.Kind]string{schema.KindEvent: subject, schema.KindDead: "versive-dead.reports.msg_1", schema.KindQuarantine: "versive-quarantine.msg_q"} {
		if err := eraser.Erase(ctx, publish.Copy{Kind: kind, Subject: subject, Sequence: 1}); err != nil {
			t.Fatal(err)
		}
	}
	expect("msg_1", "event: 1 events", "VERSIVE_DEAD 4 msg_1  reports true", "2 map[reports:waiting]")
	expect("msg_q", "event: 0 events", "VERSIVE_QUARANTINE 1004 msg_q   true")
	expect("i_1", "interview: 1 events", ofAcme, "2 map[reports:waiting]")
}

// An erasure that was interrupted, so that the copy is still there, is shown as such.
func TestFindInterruptedErasure(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := embeddedtest.Start(t).JetStream
	event, err := schema.Normalize("msg_1", body("study_1", "i_1"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, js, event.WithOrganization("acme"))
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	if err := eraser.PutTombstone(ctx, schema.KindEvent, event.Subject("versive")); err != nil {
		t.Fatal(err)
	}
	expect := func(interrupted bool) {
		t.Helper()
		for _, organization := range []string{"", "acme"} {
			finder := find.Finder{Source: subscribe.Source{JetStream: js, Stream: "VERSIVE", Subject: "versive"}, Organization: organization}
			reports, err := finder.Find(ctx, "study_1")
			if err != nil || len(reports) != 1 || reports[0].Events != 1 {
				t.Fatalf("organization %q: %+v, %v", organization, reports, err)
			}
			var text strings.Builder
			if err := find.Print(&text, reports); err != nil {
				t.Fatal(err)
			}
			e := reports[0].List[0]
			if e.Sequence != 2 || e.Interrupted != interrupted || strings.Contains(text.String(), "run versive-ingress erase again") != interrupted {
				t.Errorf("organization %q: got %+v, printed as\n%s", organization, e, &text)
			}
		}
	}
	expect(true)
	if err := eraser.Erase(ctx, publish.Copy{Kind: schema.KindEvent, Subject: event.Subject("versive"), Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	expect(false)
}

// unanswered does not answer look-ups of messages by their sequence.
type unanswered struct{ jetstream.JetStream }

func (u unanswered) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := u.JetStream.Stream(ctx, name)
	return unansweredStream{stream}, err
}

type unansweredStream struct{ jetstream.Stream }

func (unansweredStream) GetMsg(context.Context, uint64, ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	return nil, nats.ErrTimeout
}

// If it is not known whether an erasure was interrupted, that is an error.
func TestFindUnknownErasure(t *testing.T) {
	t.Parallel()
	stream := embeddedtest.Start(t)
	stream.Publish("msg_1", schema.InterviewCompleted{Type: "interview.completed", Interview: schema.Interview{ID: "i_1"}, Study: schema.Study{ID: "study_1"}})
	if err := (publish.Eraser{JetStream: stream.JetStream, Stream: "VERSIVE"}).PutTombstone(t.Context(), schema.KindEvent, "versive.interview.completed.study_1.i_1.msg_1"); err != nil {
		t.Fatal(err)
	}
	finder := find.Finder{Source: subscribe.Source{JetStream: unanswered{stream.JetStream}, Stream: "VERSIVE", Subject: "versive"}}
	if reports, err := finder.Find(t.Context(), "msg_1"); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("got %+v, %v", reports, err)
	}
}

// Of many quarantined webhooks and dead letters, the newest are printed, and how many
// others there are.
func TestPrintHeld(t *testing.T) {
	t.Parallel()
	for _, n := range []int{find.Listed, find.Listed + 2} {
		r := find.Report{ID: "study_1", Kind: "study"}
		for i := range n {
			h := find.Held{Place: find.Place{ID: fmt.Sprint("msg_", i)}, Reason: "invalid"}
			r.Quarantined, r.DeadLetters = append(r.Quarantined, h), append(r.DeadLetters, h)
		}
		var text strings.Builder
		if err := find.Print(&text, []find.Report{r}); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(text.String(), " 2 older ones, which "), n-find.Listed; got != want {
			t.Errorf("of %d, others are mentioned %d times, want %d:\n%s", n, got, want, &text)
		}
		for i := range n {
			if got, want := strings.Count(text.String(), fmt.Sprintf(" msg_%d,", i)), 2; i >= n-find.Listed && got != want || i < n-find.Listed && got != 0 {
				t.Errorf("of %d, message %d is printed %d times:\n%s", n, i, got, &text)
			}
		}
	}
}

// Ids that begin as the one that was not found, or are written in another case, are
// suggested.
func TestSuggest(t *testing.T) {
	t.Parallel()
	stream := embeddedtest.Start(t)
	for i := range 10 {
		stream.Publish(fmt.Sprint("msg_A", i), schema.InterviewCompleted{Type: "interview.completed", Interview: schema.Interview{ID: fmt.Sprint("abc-", i)}, Study: schema.Study{ID: "Coffee 1"}})
	}
	finder := find.Finder{Source: subscribe.Source{JetStream: stream.JetStream, Stream: "VERSIVE", Subject: "versive"}}
	for id, want := range map[string][]string{
		"msg_a3":   {"event msg_A3"},
		"ABC-4":    {"interview abc-4"},
		"ab":       {"interview abc-0", "interview abc-1", "interview abc-2", "interview abc-3", "interview abc-4"},
		"coff":     {"study Coffee 1"},
		"Coffee%2": {"study Coffee 1"},
		"none":     nil,
	} {
		got, err := finder.Suggest(t.Context(), id)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", id, got, err, want)
		}
	}
}
