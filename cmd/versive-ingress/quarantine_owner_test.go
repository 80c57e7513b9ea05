package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// An older version let the events of another ingress into the stream of the
// quarantine. Settling the quarantine leaves them there.
func TestQuarantineLeavesEvents(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	stream, err := js.Stream(t.Context(), "VERSIVE_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Subjects = append(config.Subjects, "other.>")
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	event, err := schema.Normalize("msg_other", sample)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: event.Subject("other"), Header: event.Header, Data: event.Data}); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"requeue --all", "discard --all --yes", "requeue msg_other"} {
		out, err := runCommand(t, "versive-ingress", s, append([]string{"quarantine"}, strings.Fields(args)...)...)
		if found := strings.Contains(out, "there is nothing to "); found != strings.Contains(args, "--all") || found != (err == nil) {
			t.Errorf("%s: %v, %s", args, err, out)
		}
	}
	if _, err := stream.GetLastMsgForSubject(t.Context(), event.Subject("other")); err != nil {
		t.Errorf("the event is gone: %v", err)
	}
}

// What another program has stored has no effect on a terminal.
func TestForeignIDs(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	js := embeddedtest.Connect(t, run(t, s).BrokerURL())
	for _, subject := range []string{"versive.\x1b[2J.\xff.s.i.%1B%5B2J", "versive-quarantine.%1B%5B2J%FF"} {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{schema.HeaderReason: {"malformed"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range [][2]string{
		{"quarantine list", `\x1b[2J\xff`},
		{"quarantine list --json", `\u001b[2J` + "\ufffd"},
		{"quarantine show \x1b[2J\xff", `\x1b[2J\xff`},
		{"quarantine requeue --all", `\x1b[2J\xff`},
		{"find \x1b[2J", `\x1b[2J`},
		{"audit", "VERSIVE"},
		{"audit --json", `"VERSIVE"`},
		{"erase --interview i --dry-run", `\x1b[2J`},
		{"quarantine discard --all --yes", `\x1b[2J\xff`},
	} {
		out, _ := runCommand(t, "versive-ingress", s, strings.Fields(test[0])...)
		if strings.Contains(out, "\x1b") || !utf8.ValidString(out) || !strings.Contains(out, test[1]) {
			t.Errorf("%q: %q", test[0], out)
		}
	}
}

// A dead letter of a consumer that cannot exist keeps no other from being requeued.
func TestRequeueOfNoConsumer(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	js := embeddedtest.Connect(t, run(t, s).BrokerURL())
	if err := (subscribe.Source{JetStream: js}).EnsureDeadLetters(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.b", "a b", "*", ">", "reports"} {
		letter := schema.DeadLetter(schema.Dead{Consumer: name, Reason: "no", ID: "msg_1", Subject: "versive.interview.completed.s.i.msg_1", Sequence: 1}, nil, nil)
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: letter.Subject("versive"), Header: letter.Header}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.CreateConsumer(t.Context(), "VERSIVE_DEAD", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	out, err := runCommand(t, "versive-ingress", s, "deadletters", "requeue", "--all")
	if err == nil || strings.Count(out, "stays ") != 4 || !strings.Contains(out, "requeued reports msg_1\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// Nothing is requeued from, or discarded in, a stream that another ingress owns.
func TestQuarantineOfAnotherIngress(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	if a := sys.post(t, "msg_raw", []byte("{")); a.Status != 202 {
		t.Fatal(a)
	}
	js := embeddedtest.Connect(t, sys.BrokerURL())
	stream, err := js.Stream(t.Context(), "VERSIVE_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Metadata = schema.KindEvent.Metadata("VERSIVE_QUARANTINE")
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"quarantine requeue --all", "quarantine discard --all --yes"} {
		if out, err := runCommand(t, "versive-ingress", s, strings.Fields(args)...); err == nil || !strings.Contains(out+err.Error(), "ingress VERSIVE_QUARANTINE") {
			t.Errorf("%s: %v, %s", args, err, out)
		}
	}
	if got := holdings(t, js, schema.KindQuarantine); got != "msg_raw" {
		t.Errorf("the quarantine holds %s", got)
	}
}
