package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// users are those of the configuration that is shipped, by NKey files.
type users struct{ config, ingress, operator, subscriber string }

// shippedUsers returns deploy/nats/users.conf with keys of its own, and without
// what is denied.
func shippedUsers(t *testing.T, denied ...string) users {
	t.Helper()
	text := readText(t, filepath.Join("..", "..", "deploy", "nats", "users.conf"))
	for _, permission := range denied {
		if !strings.Contains(text, permission) {
			t.Fatalf("users.conf does not have %s", permission)
		}
		text = strings.ReplaceAll(text, permission, `"nothing"`)
	}
	var u users
	for variable, file := range map[string]*string{
		"$NATS_INGRESS_NKEY": &u.ingress, "$NATS_OPERATOR_NKEY": &u.operator, "$NATS_SUBSCRIBER_NKEY": &u.subscriber,
	} {
		public, seed := newNKey(t)
		if !strings.Contains(text, "nkey: "+variable+"\n") {
			t.Fatalf("users.conf has no user %s", variable)
		}
		// In the environment, in production; tests share theirs.
		text = strings.ReplaceAll(text, "nkey: "+variable+"\n", "nkey: "+public+"\n")
		*file = seed
	}
	u.config = writeFile(t, "users.conf", text)
	return u
}

func (u users) connect(t *testing.T, url, seed string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, key, nats.Timeout(embeddedtest.Timeout), nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// runWithUsers starts an ingress on a broker that is open to the network.
func runWithUsers(t *testing.T, denied ...string) (*system, users) {
	t.Helper()
	u := shippedUsers(t, denied...)
	s := newSettings(t)
	s.MaxAge = 90 * 24 * time.Hour
	s.NATSListen = strings.Replace(s.NATSListen, "127.0.0.1", "0.0.0.0", 1)
	s.NATSConfig, s.NATSNKey = u.config, u.ingress
	return run(t, s), u
}

// With the users that are shipped, everyone can do what they are for.
func TestShippedUsersCan(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t)
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()

	_, js := u.connect(t, sys.BrokerURL(), u.subscriber)
	source := subscribe.Source{JetStream: js}
	reports := subscribe.Consumer{
		Durable: "reports",
		Event:   func(context.Context, schema.Event, subscribe.Message) error { return nil },
		Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
	}
	// Subscribers do not create streams; see users.conf.
	if err := source.Consume(ctx, reports); err == nil || !strings.Contains(err.Error(), "VERSIVE_DEAD does not exist") {
		t.Errorf("a subscriber before the dead letters' stream: %v", err)
	}
	_, operator := u.connect(t, sys.BrokerURL(), u.operator)
	if _, err := operator.CreateStream(ctx, jetstream.StreamConfig{
		Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, Discard: jetstream.DiscardNew, AllowDirect: true,
	}); err != nil {
		t.Fatal(err)
	}

	// The ingress stores, each once, in both streams.
	for i, want := range []string{"stored", "duplicate"} {
		if a := sys.post(t, "msg_1", sample); a.Outcome != want {
			t.Errorf("%d: got %v", i, a)
		}
	}
	if a := sys.post(t, "msg_raw", []byte("{}")); a.Status != http.StatusAccepted {
		t.Errorf("not understood: %v", a)
	}
	for i := range 30 {
		id := fmt.Sprintf("msg_more_%d", i)
		if a := sys.post(t, id, interview(id)); a.Outcome != "stored" {
			t.Fatalf("got %v", a)
		}
	}

	// A subscriber consumes, acknowledges, gives up and reads a range.
	consuming, done := context.WithCancel(ctx)
	seen := map[string]int{}
	reports.Event = func(_ context.Context, e schema.Event, _ subscribe.Message) error {
		seen[e.ID]++
		if len(seen) == 31 {
			done()
		}
		if e.ID == "msg_1" {
			return fmt.Errorf("refused: %w", subscribe.ErrPermanent)
		}
		return nil
	}
	err := source.Consume(consuming, reports)
	if err != nil || len(seen) != 31 || ctx.Err() != nil {
		t.Errorf("consumed %d of 31: %v", len(seen), err)
	}
	requireAcknowledged(t, operator, "reports")
	n := 0
	for m, err := range source.Range(ctx, subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Event(); err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 31 {
		t.Errorf("the range has %d messages, want 31", n)
	}

	// A subscriber requeues its dead letter, reads the request, and gives up again.
	settings := sys.settings
	settings.NATSNKey = u.subscriber
	if out := must(t, settings, "deadletters", "requeue", "--all", "--consumer", "reports"); out != "requeued reports msg_1\n" {
		t.Errorf("requeue: %s", out)
	}
	consuming, done = context.WithCancel(ctx)
	reports.Event = func(_ context.Context, e schema.Event, _ subscribe.Message) error {
		seen[e.ID]++
		done()
		return fmt.Errorf("refused: %w", subscribe.ErrPermanent)
	}
	if err := source.Consume(consuming, reports); err != nil || seen["msg_1"] != 2 || ctx.Err() != nil {
		t.Errorf("msg_1 was handled %d times: %v", seen["msg_1"], err)
	}
	if out := must(t, settings, "deadletters", "list"); !strings.Contains(out, "reports  waits ") {
		t.Errorf("list: %s", out)
	}

	// Subscriber and operator rewind the consumer, and the operator deletes it.
	for _, settings.NATSNKey = range []string{u.subscriber, u.operator} {
		if out := must(t, settings, "consumers", "rewind", "reports", "--first", "2", "--yes"); !strings.Contains(out, "will receive 30 events again, from sequence 2 on") {
			t.Errorf("rewind: %s", out)
		}
		if got := fetch(t, operator, "reports"); len(got) != 30 {
			t.Errorf("received %d events again, want 30", len(got))
		}
	}
	if out := must(t, settings, "find", "msg_1"); !strings.Contains(out, "consumer reports gave up on event 1") {
		t.Errorf("find: %s", out)
	}
	must(t, settings, "consumers", "delete", "reports", "--yes")

	// The operator reads all streams, dead letters and quarantine as well, and
	// erases.
	for kind, want := range map[schema.Kind]int{schema.KindEvent: 31, schema.KindQuarantine: 1, schema.KindDead: 1} {
		n := 0
		for _, err := range (subscribe.Source{JetStream: operator}).Range(ctx, subscribe.Selection{Kind: kind}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("the operator reads %d messages of %s, want %d", n, kind.Stream("VERSIVE"), want)
		}
	}
	must(t, settings, "erase", "--interview", sampleInterview, "--yes")
	must(t, settings, "audit")
	if a := sys.post(t, "msg_1", sample); a.Outcome != "duplicate" {
		t.Errorf("the erased event, sent again: %v", a)
	}
}

// The ingress of the shipped users counts what waits for an operator or a consumer, and
// keeps dead letters for no longer than events.
func TestShippedUsersSeeTheBacklog(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t)
	_, operator := u.connect(t, sys.BrokerURL(), u.operator)
	if _, err := operator.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Publish(t.Context(), "versive-dead.reports.msg_1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_raw", []byte("{}"))
	_, subscriber := u.connect(t, sys.BrokerURL(), u.subscriber)
	if _, err := subscriber.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "all are counted", func() bool {
		text := scrape(t, sys.settings, "text/plain")
		return strings.Contains(text, "\nversive_ingress_quarantine_events 1\n") && strings.Contains(text, "\nversive_ingress_dead_letter_events 1\n") &&
			strings.Contains(text, "\nversive_ingress_consumer_pending_events{consumer=\"reports\"} 1\n") && !strings.Contains(text, "_oldest_pending_seconds{consumer=\"reports\"} 0\n")
	})
	embeddedtest.Await(t, "the maximum age is that of the events", func() bool {
		stream, err := operator.Stream(t.Context(), "VERSIVE_DEAD")
		return err == nil && stream.CachedInfo().Config.MaxAge == sys.settings.MaxAge
	})
	if text := sys.log.String(); strings.Contains(text, "ermission") {
		t.Errorf("it asks for more than it may:\n%s", text)
	}
}

// Without the permission to see the dead letters their metric is absent, and not
// 0, and the log has one line on it.
func TestDeadLettersThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t, `"$JS.API.STREAM.INFO.VERSIVE_DEAD"`)
	_, operator := u.connect(t, sys.BrokerURL(), u.operator)
	const denied = "Permissions Violation for Publish to"
	embeddedtest.Await(t, "it was denied", func() bool { return strings.Contains(sys.log.String(), denied) })
	for i := range int64(3) { // which takes as many looks at the quarantine
		if _, err := operator.Publish(t.Context(), fmt.Sprint("versive-quarantine.msg_", i), []byte("{}")); err != nil {
			t.Fatal(err)
		}
		embeddedtest.Await(t, "the quarantine is counted", func() bool {
			return strings.Contains(scrape(t, sys.settings, "text/plain"), fmt.Sprintf("\nversive_ingress_quarantine_events %d\n", i+1))
		})
	}
	if strings.Contains(scrape(t, sys.settings, "text/plain"), "\nversive_ingress_dead_letter_events ") {
		t.Error("the dead letters are counted")
	}
	if n := strings.Count(sys.log.String(), denied); n != 1 {
		t.Errorf("the log has %d lines on it, want 1", n)
	}
}

// The broker rejects everything else, and the streams do not change.
func TestShippedUsersCannot(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t)
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_raw", []byte("{}"))
	_, operator := u.connect(t, sys.BrokerURL(), u.operator)
	if _, err := operator.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}}); err != nil {
		t.Fatal(err)
	}
	subscriber, js := u.connect(t, sys.BrokerURL(), u.subscriber)
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()

	state := func() string {
		var text strings.Builder
		for _, name := range []string{"VERSIVE", "VERSIVE_QUARANTINE"} {
			stream, err := operator.Stream(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			info := stream.CachedInfo()
			fmt.Fprintln(&text, name, info.State.Msgs, info.State.LastSeq, info.Config)
		}
		return text.String()
	}
	before := state()
	const forged = "versive.interview.completed.study_123.forged.msg_forged"

	// Asked for nothing more than the broker lets it ask.
	consumer, err := js.CreateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	const api = "$JS.API."
	for _, ask := range []struct{ subject, body string }{
		{forged, `{}`},
		{"versive-quarantine.msg_forged", `{}`},
		{api + "STREAM.PURGE.VERSIVE", `{}`},
		{api + "STREAM.DELETE.VERSIVE", ``},
		{api + "STREAM.UPDATE.VERSIVE", `{"name":"VERSIVE","subjects":["versive.>"],"max_msgs":1}`},
		{api + "STREAM.MSG.DELETE.VERSIVE", `{"seq":1}`},
		{api + "STREAM.SNAPSHOT.VERSIVE", `{"deliver_subject":"_INBOX.x"}`},
		{api + "STREAM.CREATE.OTHER", `{"name":"OTHER","subjects":["other"],"storage":"file"}`},
		{api + "STREAM.MSG.GET.VERSIVE_QUARANTINE", `{"seq":1}`},
		{api + "DIRECT.GET.VERSIVE_QUARANTINE", `{"seq":1}`},
		{api + "CONSUMER.CREATE.VERSIVE_QUARANTINE", `{"stream_name":"VERSIVE_QUARANTINE","config":{"ack_policy":"none"}}`},
		{api + "CONSUMER.CREATE.VERSIVE_DEAD", `{"stream_name":"VERSIVE_DEAD","config":{"ack_policy":"none"}}`},
		{api + "SERVER.REMOVE", `{}`},
		{"$SYS.REQ.SERVER.PING", ``},
	} {
		if m, err := subscriber.Request(ask.subject, []byte(ask.body), 100*time.Millisecond); err == nil && !strings.Contains(string(m.Data), `"error"`) {
			t.Errorf("a subscriber may ask %s: %s", ask.subject, m.Data)
		}
	}
	// The same by way of an answer: the broker's own would be stored.
	for _, ask := range []string{api + "STREAM.INFO.VERSIVE", api + "CONSUMER.MSG.NEXT.VERSIVE.mine", api + "CONSUMER.INFO.VERSIVE.mine"} {
		if err := subscriber.PublishRequest(ask, forged, nil); err != nil {
			t.Fatal(err)
		}
	}
	// And by way of a consumer that the broker delivers to: refused, or not
	// delivered.
	for _, to := range []string{forged, "versive-quarantine.msg_forged"} {
		ask := `{"stream_name":"VERSIVE","config":{"deliver_subject":"` + to + `","ack_policy":"none","name":"push"}}`
		if _, err := subscriber.Request(api+"CONSUMER.CREATE.VERSIVE.push", []byte(ask), 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	// No traffic but its own.
	refused := make(chan error, 10)
	subscriber.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	for _, subject := range []string{">", "versive.>", "$JS.API.>", "$JS.ACK.>"} {
		if _, err := subscriber.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("listening to %s: %v", subject, err)
			}
		case <-time.After(embeddedtest.Timeout):
			t.Errorf("a subscriber may listen to %s", subject)
		}
	}
	if err := subscriber.FlushTimeout(embeddedtest.Timeout); err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.Info(ctx); err != nil { // the broker has come to all of it
		t.Fatal(err)
	}
	if after := state(); after != before {
		t.Errorf("the streams have changed:\n%s\n%s", before, after)
	}

	// The ingress neither reads along nor takes away; the operator neither
	// purges nor deletes a stream.
	asIngress, _ := u.connect(t, sys.BrokerURL(), u.ingress)
	asOperator, _ := u.connect(t, sys.BrokerURL(), u.operator)
	for name, nc := range map[string]*nats.Conn{"the ingress": asIngress, "the operator": asOperator} {
		for _, ask := range []string{"STREAM.PURGE.VERSIVE", "STREAM.DELETE.VERSIVE", "STREAM.DELETE.VERSIVE_QUARANTINE"} {
			if m, err := nc.Request(api+ask, nil, 100*time.Millisecond); err == nil {
				t.Errorf("%s may ask %s: %s", name, ask, m.Data)
			}
		}
	}
	for _, ask := range []string{"STREAM.MSG.DELETE.VERSIVE", "CONSUMER.CREATE.VERSIVE"} {
		if m, err := asIngress.Request(api+ask, []byte(`{"seq":1}`), 100*time.Millisecond); err == nil {
			t.Errorf("the ingress may ask %s: %s", ask, m.Data)
		}
	}
	if after := state(); after != before {
		t.Errorf("the streams have changed:\n%s\n%s", before, after)
	}
}
