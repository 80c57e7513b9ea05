package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	l := newLibrary(t, 400)
	for name, test := range map[string]func(*testing.T, library){
		"lines":                replayLines,
		"dry run":              replayDry,
		"new ids":              replayNewIDs,
		"kept ids":             replayKeptIDs,
		"one subject":          replayOneSubject,
		"plain":                replayPlain,
		"rate":                 replayRate,
		"full":                 replayFull,
		"interrupted":          replayInterrupted,
		"killed, lines":        replayKilledLines,
		"killed, stream":       replayKilledStream,
		"killed, endpoint":     replayKilledEndpoint,
		"checkpoint of before": replayStreamAnew,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, l)
		})
	}
}

func replayLines(t *testing.T, l library) {
	out, _ := succeed(t, command(l.url, "replay"))
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != len(l.stored) {
		t.Fatalf("got %d lines, want %d", len(lines), len(l.stored))
	}
	for i, m := range l.stored {
		metadata, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			ID       string         `json:"id"`
			Type     string         `json:"type"`
			Sequence string         `json:"sequence"`
			StoredAt time.Time      `json:"storedat"`
			Data     jsontext.Value `json:"data"`
			Others   jsontext.Value `json:",embed"`
		}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != m.Headers().Get("ce-id") || got.Type != m.Headers().Get("ce-type") || !bytes.Equal(got.Data, m.Data()) ||
			got.Sequence != fmt.Sprintf("%020d", metadata.Sequence.Stream) || !got.StoredAt.Equal(metadata.Timestamp) {
			t.Fatalf("line %d: %s", i+1, lines[i])
		}
	}
}

func replayDry(t *testing.T, l library) {
	created, endpoint := "DRY", newEndpoint(t, nil)
	createTarget(t, l.js, jetstream.MemoryStorage, created, "dry.>")
	size := 0
	for _, m := range l.stored {
		size += len(m.Data())
	}
	want := fmt.Sprintf("would replay 398 events and 2 erasures, %.1f MB, sequences 1 to 402, to ", float64(size)/1e6)
	for _, to := range [][]string{{"--to-subject", "dry.>"}, {"--to-url", endpoint.URL}, {}} {
		out, _ := succeed(t, command(l.url, append(to, "replay", "--dry-run")...))
		if !strings.HasPrefix(out, want) {
			t.Errorf("got %s, want %s", out, want)
		}
	}
	if got := readAll(t, l.js, created); len(got)+len(endpoint.ids()) > 0 {
		t.Error("something was delivered")
	}
}

// Each replay publishes the event with another id, below the first token of the
// target.
func replayNewIDs(t *testing.T, l library) {
	createTarget(t, l.js, jetstream.MemoryStorage, "NEW", "new.>")
	succeed(t, command(l.url, "replay", "--to-subject", "new.of.>"))
	got := readAll(t, l.js, "NEW")
	requireAll(t, ids(l.stored), ids(got), 0)
	for i, m := range got {
		original := l.stored[i]
		_, tokens, _ := strings.Cut(original.Subject(), ".")
		if m.Subject() != "new.of."+tokens || !bytes.Equal(m.Data(), original.Data()) {
			t.Fatalf("%s became %s", original.Subject(), m.Subject())
		}
		id, _, ok := strings.Cut(m.Headers().Get("Nats-Msg-Id"), ":replay:")
		svixID := original.Subject()[strings.LastIndexByte(original.Subject(), '.')+1:]
		if !ok || id != original.Headers().Get("Nats-Msg-Id") || m.Headers().Get("Ingress-Original-Id") != svixID {
			t.Fatalf("%s has the headers %v", svixID, m.Headers())
		}
		headers, want := own(m), own(original)
		headers.Del("Ingress-Original-Id")
		if diff := cmp.Diff(want, headers); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	}
	_, summary := succeed(t, command(l.url, "replay", "--to-subject", "new.of.>"))
	if again := readAll(t, l.js, "NEW"); len(again) != 2*len(l.stored) || strings.Contains(summary, "before") {
		t.Errorf("replayed twice, %d are stored; want %d\n%s", len(again), 2*len(l.stored), summary)
	}
}

// own returns the headers that are not the broker's.
func own(m jetstream.Msg) nats.Header {
	header := nats.Header{}
	for name, values := range m.Headers() {
		if !strings.HasPrefix(name, "Nats-") {
			header[name] = values
		}
	}
	return header
}

func replayKeptIDs(t *testing.T, l library) {
	createTarget(t, l.js, jetstream.MemoryStorage, "KEPT", "kept.>")
	for i, want := range []bool{false, true} {
		_, summary := succeed(t, command(l.url, "replay", "--to-subject", "kept.>", "--keep-id"))
		if got := readAll(t, l.js, "KEPT"); !slices.Equal(ids(got), ids(l.stored)) || got[0].Headers().Get("Nats-Msg-Id") != ids(got)[0] {
			t.Fatalf("time %d: %d are stored", i+1, len(got))
		}
		if got := strings.Contains(summary, "the target had 400 of them before"); got != want {
			t.Errorf("time %d: %s", i+1, summary)
		}
	}
}

func replayOneSubject(t *testing.T, l library) {
	createTarget(t, l.js, jetstream.MemoryStorage, "ONE", "one")
	succeed(t, command(l.url, "replay", "--to-subject", "one"))
	requireAll(t, ids(l.stored), ids(readAll(t, l.js, "ONE")), 0)
}

func replayPlain(t *testing.T, l library) {
	subscription, err := l.js.Conn().SubscribeSync("plain.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	_, log := succeed(t, command(l.url, "replay", "--to-subject", "plain.>"))
	if !strings.Contains(log, "no stream listens on plain.>") {
		t.Error(log)
	}
	var got []string
	for range l.stored {
		m, err := subscription.NextMsg(embeddedtest.Timeout)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Header.Get("ce-id"))
	}
	requireAll(t, ids(l.stored), got, 0)
}

func replayRate(t *testing.T, l library) {
	e := newEndpoint(t, l.stored)
	start := time.Now()
	_, log := succeed(t, command(l.url, "replay", "--to-url", e.URL, "--first", "361", "--rate", "100"))
	if took := time.Since(start); took < 390*time.Millisecond || len(e.ids()) != 40 {
		t.Errorf("%d events took %v", len(e.ids()), took)
	}
	if !strings.Contains(log, "not sent: 2 erasures") {
		t.Error(log)
	}
}

// A target that takes no more ends the replay, with what it has.
func replayFull(t *testing.T, l library) {
	if _, err := l.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "FULL", Subjects: []string{"full.>"}, MaxMsgs: 10, Discard: jetstream.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	cmd := command(l.url, "replay", "--to-subject", "full.>", "--quiet")
	out, err := cmd.CombinedOutput()
	want := ids(l.stored)
	metadata, _ := l.stored[10].Metadata()
	next := fmt.Sprintf("event %s (sequence %d): ", want[10], metadata.Sequence.Stream)
	if err == nil || !strings.Contains(string(out), "delivered 10 events and 0 erasures, ") || !strings.Contains(string(out), next) ||
		!strings.Contains(string(out), "maximum messages exceeded") || !strings.Contains(string(out), "--first 13 in place of") {
		t.Errorf("%v: %s", err, out)
	}
	requireAll(t, want[:10], ids(readAll(t, l.js, "FULL")), 0)
}

// A stream of the same name that was created anew is another one.
func replayStreamAnew(t *testing.T, l library) {
	file := filepath.Join(t.TempDir(), "checkpoint")
	succeed(t, command(l.url, "replay", "--checkpoint", file, "--first", "400"))
	created := readState(file).Spec.Created
	overwrite(t, file, strings.Replace(readText(t, file), created.Format(time.RFC3339Nano), created.Add(-time.Hour).Format(time.RFC3339Nano), 1))
	out, err := command(l.url, "replay", "--checkpoint", file, "--first", "400").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "belongs to another replay: its stream's time of creation is ") {
		t.Errorf("%v: %s", err, out)
	}
}

// A message that is not an event ends a replay to lines, with the command that goes on
// after it.
func TestReplayPastForeignMessages(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	sys.post(t, "msg_1", sample)
	if _, err := embeddedtest.Connect(t, sys.BrokerURL()).Publish(t.Context(), "versive.foreign", []byte("x")); err != nil {
		t.Fatal(err)
	}
	sys.post(t, "msg_3", sample)
	for _, args := range [][]string{{"replay"}, {"replay", "--first", "2"}, {"replay", "--checkpoint", filepath.Join(t.TempDir(), "c")}} {
		if out, err := runCommand(t, "versive-ingress", s, args...); err == nil || !strings.Contains(out, "with --first 3 ") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if out := must(t, s, "replay", "--first", "3"); !strings.Contains(out, "msg_3") {
		t.Errorf("got %s", out)
	}
}
