package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

var (
	auditEvents = flag.Int("audit.events", 60, "TestAudit audits a stream of so many events")
	auditFaults = flag.Int("audit.faults", 2, "TestAudit plants so many faults of each kind")
)

// An audit finds each planted fault, and nothing else, on the embedded broker and on a
// NATS server. make audit does so with a million events.
func TestAudit(t *testing.T) {
	t.Parallel()
	for _, external := range []bool{false, true} {
		t.Run(map[bool]string{false: "embedded", true: "external"}[external], func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			p := &plantedStore{T: t, dir: s.DataDir, ids: make(map[string][]uint64), tombstones: make(map[uint64]uint64)}
			run(t, s).Stop() // creates the streams
			p.fill()
			sys := run(t, s)
			p.plant(sys)
			embeddedtest.Await(t, "the high-water mark is the end of the stream", func() bool { return p.mark() == p.last })
			p.remove(sys)
			sys.Stop()
			p.damage()
			if external {
				address, _ := startServer(t, s.DataDir)
				s = withBroker(s, address)
				s.DataDir = t.TempDir()
			} else {
				run(t, s)
			}

			report := p.audit(s)
			p.requireFound(report)
			if _, err := runCommand(t, "versive-ingress", s, "audit", "--acknowledge"); err == nil {
				t.Error("the exit status is 0, although not all findings are losses")
			}
			report = p.audit(s)
			if len(report.Reported) > 0 {
				t.Errorf("after the acknowledgement: %+v", report.Reported)
			}
			for _, stream := range report.Streams {
				for _, f := range stream.Findings {
					if loss := f.Problem == "missing" || f.Problem == "unreadable"; loss != f.Acknowledged {
						t.Errorf("acknowledged %v: %s of %s", f.Acknowledged, f.Problem, stream.Stream)
					}
				}
			}
			if !external {
				if out, _ := runCommand(t, "versive-ingress", s, "doctor"); !strings.Contains(out, "none unacknowledged") {
					t.Errorf("doctor: %s", out)
				}
			}
		})
	}
}

// An audit that is interrupted acknowledges nothing.
func TestAuditInterrupted(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.NATSListen = silent.Addr().String()
	marks := `{"losses":[{"number":1,"stream":"VERSIVE","problem":"removed","sequences":"3"}]}`
	if err := errors.Join(os.MkdirAll(s.DataDir, 0o700), os.WriteFile(filepath.Join(s.DataDir, "marks.json"), []byte(marks), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "versive-ingress", "audit", "--acknowledge")
	cmd.Env = append(cmd.Environ(), environment(s)...)
	startProcess(t, cmd)
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the exit status is 0")
	}
	if losses, _, err := publish.ReadLosses(s.DataDir); err != nil || len(losses) != 1 {
		t.Errorf("got %v, %v", losses, err)
	}
}

// A consumer that has given up once more, and has ended before it has deleted the dead
// letter that was requeued, leaves two of the event. That is no finding while the request is
// there.
func TestAuditGivenUpAgain(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	sequence := store(t, js, "msg_1")
	if err := (subscribe.Source{JetStream: js}).EnsureDeadLetters(t.Context()); err != nil {
		t.Fatal(err)
	}
	event, err := schema.Normalize("msg_1", interview("msg_1"))
	if err != nil {
		t.Fatal(err)
	}
	letter := schema.DeadLetter(schema.Dead{Consumer: "reports", Reason: "no", ID: "msg_1", Subject: event.Subject("versive"), Sequence: sequence}, event.Header, event.Data)
	for _, m := range []schema.Message{letter, schema.Requeue("reports", "msg_1", 1), letter} {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}
	must(t, s, "audit")
	if err := (publish.Eraser{JetStream: js, Stream: "VERSIVE"}).Delete(t.Context(), publish.Copy{Kind: schema.KindDead, Sequence: 2}); err != nil {
		t.Fatal(err)
	}
	if out, err := runCommand(t, "versive-ingress", s, "audit"); err == nil || !strings.Contains(out, "3: has the id of message 1") {
		t.Errorf("without the request: %v, %s", err, out)
	}
}

// A plantedStore is a store with faults in its event stream.
type plantedStore struct {
	*testing.T
	dir  string // the data directory
	last uint64

	foreign, inconsistent []uint64
	ids                   map[string][]uint64 // sequences of events that share an id
	tombstones            map[uint64]uint64   // sequences of copies, which may be there, by those of their tombstones
	erased                []uint64            // copies that are not there
	lost                  []uint64            // removed or damaged
}

// fill stores events, on a server that syncs nothing.
func (p *plantedStore) fill() {
	p.Helper()
	address, stop := startServer(p.T, p.dir)
	defer stop()
	js := embeddedtest.Connect(p, "nats://"+address)
	for n := range *auditEvents {
		m, err := schema.Normalize(fmt.Sprint("msg_", n), interview(fmt.Sprint("interview_", n)))
		if err == nil {
			_, err = js.PublishMsgAsync(&nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}, jetstream.WithMsgID(m.ID))
		}
		if err != nil {
			p.Fatal(err)
		}
		if n%1000 == 999 || n == *auditEvents-1 { // the client allows few more to be outstanding
			embeddedtest.Receive(p.T, "they are stored", js.PublishAsyncComplete())
		}
	}
}

// plant stores, after the events, others that are erased and messages that do not belong
// there.
func (p *plantedStore) plant(sys *system) {
	p.Helper()
	js := embeddedtest.Connect(p, sys.BrokerURL())
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	stream, err := js.Stream(p.Context(), "VERSIVE")
	if err != nil {
		p.Fatal(err)
	}
	put := func(subject string, header map[string][]string, data []byte) uint64 {
		ack, err := js.PublishMsg(p.Context(), &nats.Msg{Subject: subject, Header: header, Data: data})
		if err != nil {
			p.Fatal(err)
		}
		return ack.Sequence
	}
	event := func(id, interviewID string) schema.Message {
		m, err := schema.Normalize(id, interview(interviewID))
		if err != nil {
			p.Fatal(err)
		}
		return m
	}
	chunk := *auditEvents / *auditFaults
	for i := range *auditFaults {
		n := i*chunk + rand.IntN(chunk)
		first := event(fmt.Sprint("msg_", n), fmt.Sprint("interview_", n))
		stored, err := stream.GetLastMsgForSubject(p.Context(), first.Subject("versive"))
		if err != nil {
			p.Fatal(err)
		}
		other := event(first.ID, fmt.Sprint("another_", n))
		p.ids[first.ID] = []uint64{stored.Sequence, put(first.Subject("versive"), first.Header, first.Data), put(other.Subject("versive"), other.Header, other.Data)}
		source := maps.Clone(first.Header)
		source["ce-source"] = []string{"https://getversive.com/studies/another"}
		p.inconsistent = append(p.inconsistent,
			put(strings.ReplaceAll(other.Subject("versive"), "another_", "wrong_"), other.Header, other.Data),
			put(first.Subject("versive"), source, first.Data))
		p.foreign = append(p.foreign, put(fmt.Sprintf("versive.foreign.message.s.i.msg_%d", i), nil, []byte("hello")))

		// One that is erased, and one whose erasure was interrupted.
		erased := event(fmt.Sprint("erased_", i), fmt.Sprint("erased_", i))
		at := put(erased.Subject("versive"), erased.Header, erased.Data)
		if err := eraser.Erase(p.Context(), publish.Copy{Subject: erased.Subject("versive"), Sequence: at}); err != nil {
			p.Fatal(err)
		}
		p.tombstones[at+1], p.erased = at, append(p.erased, at)
		half := event(fmt.Sprint("half_", i), fmt.Sprint("half_", i))
		at = put(half.Subject("versive"), half.Header, half.Data)
		if err := eraser.PutTombstone(p.Context(), schema.KindEvent, half.Subject("versive")); err != nil {
			p.Fatal(err)
		}
		p.tombstones[at+1] = at

		// Webhooks that wait for a person, and that were discarded.
		sys.post(p, fmt.Sprint("raw_", i), []byte("{}"))
		sys.post(p, fmt.Sprint("discarded_", i), []byte("{}"))
		must(p.T, sys.settings, "quarantine", "discard", fmt.Sprint("discarded_", i), "--yes")
		for k := 0; k < 6 && *auditEvents < 1000; k++ { // so that few events are several blocks
			id := fmt.Sprintf("large_%d_%d", i, k)
			sys.post(p, id, bytes.Replace(interview(id), []byte(`"transcript": "`), []byte(`"transcript": "`+strings.Repeat("x", 3<<20)), 1))
		}
	}
	info, err := stream.Info(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	p.last = info.State.LastSeq
}

// mark returns the high-water mark.
func (p *plantedStore) mark() uint64 {
	var content struct {
		Streams map[string]struct{ Last uint64 }
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "marks.json"))
	if err != nil || json.Unmarshal(text, &content) != nil {
		return 0
	}
	return content.Streams["VERSIVE"].Last
}

// remove deletes messages as nobody should.
func (p *plantedStore) remove(sys *system) {
	p.Helper()
	stream, err := embeddedtest.Connect(p, sys.BrokerURL()).Stream(p.Context(), "VERSIVE")
	if err != nil {
		p.Fatal(err)
	}
	for n := range *auditFaults {
		sequence := p.pick(1, p.last)
		if n == 0 { // the state of the stream does not list what is missing at its beginning
			sequence = 1
		}
		if err := stream.DeleteMsg(p.Context(), sequence); err != nil {
			p.Fatal(err)
		}
		p.lost = append(p.lost, sequence)
	}
}

// pick returns the sequence, within bounds, of an event that has no fault yet, and no
// tombstone: that would explain why it is missing.
func (p *plantedStore) pick(first, last uint64) uint64 {
	for {
		sequence := first + rand.Uint64N(last-first+1)
		_, tombstone := p.tombstones[sequence]
		_, erased := p.tombstones[sequence+1]
		if !tombstone && !erased && !slices.Contains(slices.Concat(p.foreign, p.inconsistent, p.lost), sequence) {
			return sequence
		}
	}
}

// damage flips a byte in the data of an event in some blocks, and cuts others.
func (p *plantedStore) damage() {
	p.Helper()
	blocks, err := filepath.Glob(filepath.Join(p.dir, "jetstream", "$G", "streams", "VERSIVE", "msgs", "*.blk"))
	if err != nil || len(blocks) <= 2**auditFaults {
		p.Fatalf("%d blocks, %v", len(blocks), err)
	}
	slices.SortFunc(blocks, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	blocks = blocks[:len(blocks)-1] // from the last one, a start drops what is damaged
	rand.Shuffle(len(blocks), func(i, k int) { blocks[i], blocks[k] = blocks[k], blocks[i] })
	for i, block := range blocks[:2**auditFaults] {
		text, err := os.ReadFile(block)
		if err != nil {
			p.Fatal(err)
		}
		type record struct {
			sequence uint64
			end      int
		}
		var records []record
		for at := 0; at < len(text); {
			length := int(binary.LittleEndian.Uint32(text[at:]) &^ (1 << 31))
			at += length
			if sequence := binary.LittleEndian.Uint64(text[at-length+4:]); sequence>>62 == 0 { // neither erased nor a deletion
				records = append(records, record{sequence, at})
			}
		}
		if i%2 == 0 {
			sequence := p.pick(records[0].sequence, records[len(records)-1].sequence)
			k := slices.IndexFunc(records, func(r record) bool { return r.sequence == sequence })
			text[records[k].end-20] ^= 1
			p.lost = append(p.lost, sequence)
		} else {
			k := len(records) - 1 - rand.IntN(min(len(records)-1, *auditEvents/12)) // in few blocks, not all that was planted
			for _, r := range records[k:] {
				p.lost = append(p.lost, r.sequence)
			}
			text = text[:records[k].end-20]
		}
		if err := os.WriteFile(block, text, 0o600); err != nil {
			p.Fatal(err)
		}
	}
}

type auditReport struct {
	Streams []struct {
		Stream                    string
		Messages, Erased, Deleted uint64
		Findings                  []struct {
			Problem      string
			Acknowledged bool
			Messages     uint64
			Sequences    schema.Sequences
		}
	}
	Reported []publish.Loss
}

// audit runs the command, which must find faults, and logs what it takes.
func (p *plantedStore) audit(s config.Settings) (report auditReport) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), "versive-ingress", "audit", "--json")
	cmd.Env = append(cmd.Environ(), environment(s)...)
	var notes bytes.Buffer
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &notes
	started := time.Now()
	startProcess(p, cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak := ""
	var err error
	for running := true; running; { // the usage in ProcessState begins with that of this process
		select {
		case err = <-ended:
			running = false
		case <-time.After(50 * time.Millisecond):
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
				peak, _, _ = strings.Cut(strings.TrimSpace(rest), "\n")
			}
		}
	}
	if cmd.ProcessState.ExitCode() != 1 || json.Unmarshal(out.Bytes(), &report) != nil {
		p.Fatalf("%v\n%s%s", err, &out, &notes)
	}
	p.Logf("%d events: %.1f s, %.1f s of CPU, %s at most", *auditEvents, time.Since(started).Seconds(),
		(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), peak)
	return report
}

// requireFound checks that a report has what was planted, and nothing else.
func (p *plantedStore) requireFound(report auditReport) {
	p.Helper()
	lost := schema.SequencesOf(p.lost)
	var repeated, notErased []uint64
	for _, group := range p.ids {
		if left := slices.DeleteFunc(group, lost.Has); len(left) > 1 {
			repeated = append(repeated, left[1:]...)
		}
	}
	for tombstone, at := range p.tombstones {
		switch erased := slices.Contains(p.erased, at); {
		case erased && lost.Has(tombstone): // nothing shows any more that it was erased
			p.lost = append(p.lost, at)
		case !erased && !lost.Has(tombstone) && !lost.Has(at):
			notErased = append(notErased, at)
		}
	}
	want := map[string]schema.Sequences{
		"lost":         schema.SequencesOf(p.lost),
		"foreign":      schema.SequencesOf(p.foreign).Minus(lost),
		"inconsistent": schema.SequencesOf(p.inconsistent).Minus(lost),
		"repeated":     schema.SequencesOf(repeated),
		"not_erased":   schema.SequencesOf(notErased),
	}
	for _, stream := range report.Streams {
		got := make(map[string]schema.Sequences)
		for _, f := range stream.Findings {
			problem := f.Problem
			if problem == "missing" || problem == "unreadable" { // the broker may drop what is damaged when it reads it
				problem = "lost"
			}
			got[problem] = got[problem].Union(f.Sequences)
		}
		if stream.Stream != "VERSIVE" {
			if len(got) > 0 || stream.Messages != 2*stream.Erased || stream.Deleted > 0 {
				p.Errorf("%+v", stream)
			}
			continue
		}
		for problem, sequences := range want {
			if text := got[problem].String(); text != sequences.String() || got[problem].Len() != sequences.Len() {
				p.Errorf("%s: found %s, want %v", problem, text, sequences)
			}
		}
		p.Logf("found %v; %d messages, %d erased", got, stream.Messages, stream.Erased)
		if len(got) > len(want) || stream.Messages+lost.Len()+uint64(len(p.erased)) != p.last {
			p.Errorf("found %v among %d messages", got, stream.Messages)
		}
	}
}

// startServer starts a NATS server on the store in a data directory, until it is stopped or
// the test ends.
func startServer(t *testing.T, dir string) (address string, stop func()) {
	t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, MaxPayload: 9 << 20})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	stop = func() {
		server.Shutdown()
		server.WaitForShutdown()
	}
	t.Cleanup(stop)
	if !server.ReadyForConnections(embeddedtest.Timeout) {
		t.Fatal("the server does not start")
	}
	return server.Addr().String(), stop
}
