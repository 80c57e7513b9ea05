package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/erasure"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// runCommand runs the program with the settings of an ingress, and returns what
// it has printed.
func runCommand(t *testing.T, program string, s config.Settings, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(cmd.Environ(), "INGRESS_NATS_URL="+s.NATSURL, "INGRESS_NATS_LISTEN="+s.NATSListen, "INGRESS_DATA_DIR="+s.DataDir, "INGRESS_NATS_NKEY="+s.NATSNKey, "INGRESS_NATS_CONFIG="+s.NATSConfig)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// must is runCommand where it is to succeed.
func must(t *testing.T, s config.Settings, args ...string) string {
	t.Helper()
	out, err := runCommand(t, "versive-ingress", s, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

const planted = "PLANTED-MARKER"

// plantedBody returns a body with the marker wherever content can be.
func plantedBody(eventType, interview string) []byte {
	return []byte(strings.NewReplacer("TYPE", eventType, "ID", interview, "MARK", planted).Replace(`{
		"event_type":"TYPE","MARK":["MARK"],
		"interview":{"id":"ID","title":"MARK","transcript":"MARK","metadata":{"MARK":"MARK"},"vid":"MARK","MARK":"MARK",
			"parsed_conversation_json":[{"role":"user","content":"MARK","MARK":"MARK"}]},
		"study":{"id":"study_1","title":"MARK","metadata":{"name":"MARK"}}}`))
}

// filesWith returns the files below dir in which text stands.
func filesWith(t testing.TB, dir, text string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var content []byte
		if err == nil && d.Type().IsRegular() {
			content, err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if bytes.Contains(content, []byte(text)) {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// holdings returns what a stream holds: the svix-id of each message, with a
// star if it is a tombstone.
func holdings(t *testing.T, js jetstream.JetStream, kind schema.Kind) string {
	t.Helper()
	var list []string
	for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: kind}) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Erased() {
			m.ID += "*"
		}
		list = append(list, m.ID)
	}
	return strings.Join(list, " ")
}

// An interview is in the event stream, in the quarantine, understood in part
// or not at all, and among the dead letters. After it was erased, no file
// below the data directory holds anything of it but ids; nor do they after a
// restart. No resend brings it back, within the duplicate window or beyond.
func TestEraseInterview(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.DedupeWindow = time.Second
	sys := run(t, s)
	const id = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
	bodies := map[string][]byte{
		"msg_1":    plantedBody("interview.completed", id),
		"msg_2":    plantedBody("interview.completed", id),
		"msg_type": plantedBody("interview.started", id),
		"msg_cut":  plantedBody("interview.completed", id)[:300],
		"msg_deep": fmt.Appendf(nil, `{"event_type":"batch","list":["{\"id\":\"%s\",\"text\":\"%s\"}"]}`, strings.ReplaceAll(id, "-", `\\u002D`), planted),
	}
	ids := slices.Sorted(func(yield func(string) bool) {
		for id := range bodies {
			if !yield(id) {
				return
			}
		}
	})
	for _, id := range ids {
		if a := sys.post(t, id, bodies[id]); !a.Accepted() {
			t.Fatal(a)
		}
		sys.post(t, "msg_after_"+id, interview(id)) // so that none is the last of its file
	}
	sys.post(t, "msg_kept", bytes.ReplaceAll(plantedBody("interview.started", id[1:]), []byte(planted), []byte("ALSO-KEPT")))
	giveUp(t, sys, "msg_2", "msg_after_msg_1")
	js := embeddedtest.Connect(t, sys.BrokerURL())
	if got := holdings(t, js, schema.KindDead); got != "msg_after_msg_1 msg_2" {
		t.Fatalf("the dead letters are %s", got)
	}
	if len(filesWith(t, s.DataDir, planted)) < 3 {
		t.Fatal("the markers are not in all streams to begin with")
	}

	if out := must(t, s, "erase", "--interview", id, "--yes"); !strings.Contains(out, "\nerased: 6\n") {
		t.Errorf("got %s", out)
	}
	gone := func(when string) {
		t.Helper()
		if files := filesWith(t, s.DataDir, planted); len(files) > 0 {
			t.Errorf("%s, the marker is in %v", when, files)
		}
	}
	resend := func() {
		t.Helper()
		for _, id := range ids {
			if a := sys.post(t, id, bodies[id]); a.Outcome != "duplicate" && a.Outcome != "quarantined" {
				t.Errorf("a resend of %s: %v", id, a)
			}
		}
	}
	gone("while the broker runs")
	resend()
	gone("after a resend")
	sys.Stop()
	gone("after the end")
	sys = run(t, s)
	js = embeddedtest.Connect(t, sys.BrokerURL())
	resend() // the window knows no id of what was deleted
	gone("after a restart and a resend")
	if out := must(t, s, "erase", "--interview", id); !strings.Contains(out, "nothing is stored") {
		t.Errorf("erased again: %s", out)
	}

	for kind, want := range map[schema.Kind]string{
		schema.KindEvent:      "msg_after_msg_1 msg_after_msg_2 msg_after_msg_cut msg_after_msg_deep msg_after_msg_type msg_1* msg_2* msg_type*",
		schema.KindQuarantine: "msg_kept msg_cut* msg_deep* msg_type*",
		schema.KindDead:       "msg_after_msg_1 msg_2*",
	} {
		if got := holdings(t, js, kind); got != want {
			t.Errorf("stream %d holds %s\nwant %s", kind, got, want)
		}
	}
	embeddedtest.Await(t, "the metrics", func() bool {
		_, text := get("http://" + s.AdminListen + "/metrics")
		return strings.Contains(text, "\nversive_ingress_quarantine_events 1\n") && strings.Contains(text, "\nversive_ingress_dead_letter_events 1\n")
	})
}

// giveUp makes dead letters of some events, as a consumer would.
func giveUp(t *testing.T, sys *system, ids ...string) {
	t.Helper()
	consumeUntil(t, sys, len(ids), func(event schema.Event) error {
		if slices.Contains(ids, event.ID) {
			return fmt.Errorf("no: %w", subscribe.ErrPermanent)
		}
		return nil
	}, nil)
}

// consumeUntil runs a consumer until there is a number of dead letters. Its handling
// of an erasure returns erasure.
func consumeUntil(t *testing.T, sys *system, deadLetters int, event func(schema.Event) error, erasure error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer stop()
	js := embeddedtest.Connect(t, sys.BrokerURL())
	source := subscribe.Source{JetStream: js}
	consumed := make(chan error, 1)
	go func() {
		consumed <- source.Consume(ctx, subscribe.Consumer{
			Durable: "reports",
			Event:   func(_ context.Context, e schema.Event, _ subscribe.Message) error { return event(e) },
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return erasure },
		})
	}()
	embeddedtest.Await(t, "dead letters", func() bool {
		stream, err := js.Stream(ctx, "VERSIVE_DEAD")
		return err == nil && stream.CachedInfo().State.Msgs == uint64(deadLetters)
	})
	stop()
	if err := embeddedtest.Receive(t, "Consume ends", consumed); err != nil {
		t.Error(err)
	}
}

// A copy that cannot be erased does not keep the others from being erased, is
// reported, and gets no tombstone.
func TestEraseTellsWhatIsLeft(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	sys.post(t, "msg_1", plantedBody("interview.completed", "i"))
	sys.post(t, "msg_q", plantedBody("interview.completed", "i")[:300])
	js := embeddedtest.Connect(t, sys.BrokerURL())
	stream, err := js.Stream(t.Context(), "VERSIVE_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.DenyDelete = true
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	out, err := runCommand(t, "versive-ingress", s, "erase", "--interview", "i", "--yes")
	if err == nil || !strings.Contains(out, "erased: 1\n") || !strings.Contains(out, "1 of 2 messages may be left: stream VERSIVE_QUARANTINE: denies deletion") {
		t.Errorf("got %v\n%s", err, out)
	}
	if strings.Contains(out, planted) {
		t.Errorf("content is printed: %s", out)
	}
	if got := holdings(t, js, schema.KindEvent) + ", " + holdings(t, js, schema.KindQuarantine); got != "msg_1*, msg_q" {
		t.Errorf("the streams hold %s", got)
	}
}

// An erasure that is interrupted names what is left, and the next one erases that.
func TestEraseInterrupted(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	for _, id := range []string{"msg_1", "msg_2", "msg_3"} {
		sys.post(t, id, plantedBody("interview.completed", "int-1"))
	}
	interrupted, cancel := context.WithCancelCause(t.Context())
	c, err := broker.Open(interrupted, s, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e := erasure.New(c, erasure.Target{Interview: "int-1"})
	found, err := e.Find(interrupted)
	if err != nil {
		t.Fatal(err)
	}
	err = e.Run(interrupted, found, func() { cancel(errors.New("interrupt signal received")) })
	if err == nil || err.Error() != "2 of 3 messages may be left: interrupt signal received; run the same command again for the rest" {
		t.Errorf("got %v", err)
	}
	if out := must(t, s, "erase", "--interview", "int-1", "--yes", "--json"); !strings.Contains(out, `"events":2,"quarantined":0,"dead_letters":0,"erased_before":1,"left":0,"complete":true,"verified":true}`) {
		t.Errorf("got %s", out)
	}
}

// A message that cannot be read, whose interview is not known, does not keep what can be
// read from being erased.
func TestEraseBesideUnreadable(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	large := strings.Repeat("0", 6<<20)
	sys.post(t, "msg_damaged", []byte(`{"event_type":"interview.started","interview":{"id":"int-2"}}`))
	for i := range 2 { // damage in the last block would be dropped at the start
		sys.post(t, fmt.Sprint("msg_large_", i), fmt.Appendf(nil, `{"event_type":"interview.started","interview":{"id":"int-3","transcript":%q}}`, large))
	}
	sys.post(t, "msg_q", plantedBody("interview.started", "int-1"))
	sys.post(t, "msg_1", plantedBody("interview.completed", "int-1"))
	sys.Stop()
	block := filepath.Join(s.DataDir, "jetstream", "$G", "streams", "VERSIVE_QUARANTINE", "msgs", "1.blk")
	content, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	content[bytes.Index(content, []byte("int-2"))] ^= 1
	if err := os.WriteFile(block, content, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	if out, err := runCommand(t, "versive-ingress", s, "erase", "--interview", "int-1", "--dry-run"); err == nil || !strings.Contains(out, "msg_q") {
		t.Errorf("got %v, %s", err, out)
	}
	out, err := runCommand(t, "versive-ingress", s, "erase", "--interview", "int-1", "--yes", "--json")
	if err == nil || !strings.Contains(out, `"events":1,"quarantined":1,"dead_letters":0,"erased_before":0,"left":0,"complete":false,"verified":true}`) ||
		!strings.Contains(out, "reading stream VERSIVE_QUARANTINE: the stream counts messages that it cannot return (1, sequences 1)") {
		t.Errorf("got %v, %s", err, out)
	}
	if files := filesWith(t, s.DataDir, planted); len(files) > 0 {
		t.Errorf("the marker is in %v", files)
	}
}
