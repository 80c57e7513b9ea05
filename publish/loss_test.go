package publish_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A damaged record takes no other with it: neither those after it, nor those that are
// stored later.
func TestDamagedRecord(t *testing.T) {
	for name, test := range map[string]struct {
		id     string
		killed bool
		lost   uint64
	}{
		"in the middle":              {"msg_6", false, 6},
		"in the middle, with a kill": {"msg_6", true, 6},
		"at the end":                 {"msg_9", false, 9}, // with a kill: TestLossAtTheEnd
	} {
		t.Run(name, func(t *testing.T) {
			d := newIngressDir(t)
			for i := range 9 {
				d.publish(event(t, fmt.Sprint("msg_", i+1)))
			}
			d.restart(func() {
				d.flip("VERSIVE", "1.blk", test.id+"\r\n", 0)
				if test.killed {
					d.removeIndex("VERSIVE")
				}
			})
			loss := fmt.Sprint("VERSIVE removed ", test.lost)
			d.wantLosses(loss)
			if got := d.publish(event(t, "msg_10")); got != 10 {
				t.Errorf("the next event has sequence %d", got)
			}
			d.restart(func() { d.removeIndex("VERSIVE") }) // as after a kill
			d.wantLosses(loss)                             // not again
			stream, err := d.js.Stream(t.Context(), "VERSIVE")
			if err != nil {
				t.Fatal(err)
			}
			for sequence := uint64(1); sequence <= 10; sequence++ {
				m, err := stream.GetMsg(t.Context(), sequence)
				if want := fmt.Sprint("msg_", sequence); sequence != test.lost && (err != nil || m.Header.Get(jetstream.MsgIDHeader) != want) {
					t.Errorf("%s is not stored: %v", want, err)
				}
			}
		})
	}
}

// If the last record is damaged after a kill, its sequence is reused.
func TestLossAtTheEnd(t *testing.T) {
	d := newIngressDir(t)
	for i := range 9 {
		d.publish(event(t, fmt.Sprint("msg_", i+1)))
	}
	d.restart(func() {
		d.removeIndex("VERSIVE") // as after a kill
		d.flip("VERSIVE", "1.blk", "msg_9\r\n", 0)
	})
	d.wantLosses("VERSIVE went_back 9")
	if got := d.publish(event(t, "msg_10")); got != 9 {
		t.Errorf("the next event has sequence %d", got)
	}
	d.restart(func() {})
	d.wantLosses("VERSIVE went_back 9") // not again
	if got := d.metrics(); got["stream_lost_events_total VERSIVE"] != 1 || got["stream_lost_events_acknowledged_total VERSIVE"] != 0 {
		t.Errorf("metrics are %v", got)
	}
	log := d.log.String()
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "stream=VERSIVE problem=went_back messages=1 sequences=9") {
		t.Errorf("the log does not report the loss:\n%s", log)
	}

	d.acknowledge()
	embeddedtest.Await(t, "the metric of acknowledged losses follows", func() bool {
		got := d.metrics()
		return got["stream_lost_events_total VERSIVE"] == 1 && got["stream_lost_events_acknowledged_total VERSIVE"] == 1
	})
	d.restart(func() {})
	if got := d.metrics(); got["stream_lost_events_total VERSIVE"] != 1 || got["stream_lost_events_acknowledged_total VERSIVE"] != 1 {
		t.Errorf("after a restart the metrics are %v", got)
	}
}

// A flipped bit makes the server drop the rest of a block before the last.
func TestLossInTheMiddle(t *testing.T) {
	d := newIngressDir(t)
	d.store(20, 1<<20) // three blocks
	for _, name := range []string{"1.blk", "2.blk", "3.blk"} {
		if _, err := os.Stat(d.file("VERSIVE", name)); err != nil {
			t.Fatal(err)
		}
	}
	d.restart(func() {
		d.removeIndex("VERSIVE")
		d.flip("VERSIVE", "2.blk", "xxxxxxxx", 1<<19)
	})
	d.wantLosses("VERSIVE removed 8-14")
	d.restart(func() {})
	d.wantLosses("VERSIVE removed 8-14")
}

// A record with a changed length makes the server drop the rest of the block at
// runtime, when the block is read. In the other streams deletions are normal, so the
// loss is known from the server, which lists it.
func TestLossWhileRunning(t *testing.T) {
	d := newIngressDir(t)
	for i := range 20 {
		body := fmt.Sprintf("not understood %d %s", i+1, strings.Repeat("x", 1<<20))
		d.publish(schema.Quarantine(fmt.Sprint("msg_", i+1), []byte(body), &schema.Error{Reason: schema.Malformed}, nil))
	}
	d.restart(func() { d.flip("VERSIVE_QUARANTINE", "2.blk", "versive-quarantine.", -20) }) // in a record's length
	d.wantLosses("VERSIVE_QUARANTINE removed 8-14")                                         // counting the backlog reads the block
}

// A message that cannot be read is not deleted: nothing may overwrite it.
func TestUnreadableIsNotDeleted(t *testing.T) {
	d := newIngressDir(t)
	for i := range 12 { // two blocks
		body := fmt.Sprintf("not understood %d %s", i+1, strings.Repeat("x", 1<<20))
		d.publish(schema.Quarantine(fmt.Sprint("msg_", i+1), []byte(body), &schema.Error{Reason: schema.Malformed}, nil))
	}
	if err := (publish.Eraser{JetStream: d.js, Stream: "VERSIVE"}).Delete(t.Context(), publish.Copy{Kind: schema.KindQuarantine, Sequence: 4}); err != nil {
		t.Fatal(err)
	}
	d.restart(func() { d.flip("VERSIVE_QUARANTINE", "1.blk", "not understood 3", 0) })
	stream, err := d.js.Stream(t.Context(), "VERSIVE_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := publish.Deleted(t.Context(), stream, []uint64{2, 3, 4}); err != nil || !slices.Equal(gone, []uint64{4}) {
		t.Errorf("got %v, %v", gone, err)
	}
}

func TestLossByHand(t *testing.T) {
	d := newIngressDir(t)
	d.store(5, 10)
	d.wantMarks("", 5)
	stream, err := d.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	d.wantLosses("VERSIVE removed 3")
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wantLosses("VERSIVE removed 3", "VERSIVE removed 1-2, 4-5")
	d.store(2, 10)
	d.wantMarks("", 7)
	if err := d.js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	d.wantLosses("VERSIVE removed 3", "VERSIVE removed 1-2, 4-5", "VERSIVE recreated 6-7")
	embeddedtest.Await(t, "the stream is recreated", func() bool { _, err := d.js.Stream(t.Context(), "VERSIVE"); return err == nil })
	d.store(1, 10)
	d.restart(func() {
		if err := os.RemoveAll(filepath.Join(d.dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	})
	d.wantLosses("VERSIVE removed 3", "VERSIVE removed 1-2, 4-5", "VERSIVE recreated 6-7", "VERSIVE recreated 1") // the quarantine had nothing to lose
	got := d.metrics()
	if got["stream_recreated_total VERSIVE"] != 2 || got["stream_lost_events_total VERSIVE"] != 8 || got["stream_recreated_acknowledged_total VERSIVE"] != 0 {
		t.Errorf("metrics are %v", got)
	}
}

// Intended deletions are not losses.
func TestNoLoss(t *testing.T) {
	d := newIngressDir(t)
	var copies []publish.Copy
	for i := range 6 {
		m := event(t, fmt.Sprint("msg_", i))
		copies = append(copies, publish.Copy{Subject: m.Subject("versive"), Sequence: d.publish(m)})
	}
	var raw []publish.Copy
	for i := range 3 {
		m := schema.Quarantine(fmt.Sprint("raw_", i), []byte("{"), &schema.Error{Reason: schema.Malformed}, nil)
		raw = append(raw, publish.Copy{Kind: m.Kind, Subject: m.Subject("versive"), Sequence: d.publish(m)})
	}
	eraser := func() publish.Eraser { return publish.Eraser{JetStream: d.js, Stream: "VERSIVE"} }
	for _, i := range []int{3, 0, 5} {
		if err := eraser().Erase(t.Context(), copies[i]); err != nil {
			t.Fatal(err)
		}
	}
	d.wantMarks("4,6", 9)
	for _, c := range raw {
		if err := eraser().Delete(t.Context(), c); err != nil { // as requeue and discard do
			t.Fatal(err)
		}
	}
	index := func() {
		d.removeIndex("VERSIVE")
		d.removeIndex("VERSIVE_QUARANTINE")
	}
	d.restart(index)
	d.wantMarks("4,6", 9)

	// An erasure that was interrupted before the copy was deleted.
	tombstone, err := schema.Tombstone(schema.KindEvent, copies[1].Subject, copies[1].Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.js.PublishMsg(t.Context(), &nats.Msg{Subject: copies[1].Subject, Header: tombstone.Header}, jetstream.WithMsgID(tombstone.ID)); err != nil {
		t.Fatal(err)
	}
	d.restart(func() {})
	if err := eraser().Erase(t.Context(), copies[1]); err != nil {
		t.Fatal(err)
	}
	d.wantMarks("4,6", 10)

	// An erasure whose tombstone was put without a known copy.
	if err := eraser().PutTombstone(t.Context(), schema.KindEvent, copies[2].Subject); err != nil {
		t.Fatal(err)
	}
	if err := eraser().Erase(t.Context(), copies[2]); err != nil {
		t.Fatal(err)
	}
	d.wantMarks("6", 11)

	// Without marks, as after an upgrade, and with damaged marks.
	for _, text := range []string{"", "{"} {
		d.restart(func() {
			file := filepath.Join(d.dir, "marks.json")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if text != "" {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
		d.wantMarks("6", 11)
		if logged := strings.Contains(d.log.String(), "high-water marks cannot be read"); logged != (text != "") {
			t.Errorf("with the marks %q:\n%s", text, d.log.String())
		}
	}
	if err := eraser().Erase(t.Context(), copies[4]); err != nil {
		t.Fatal(err)
	}
	d.wantMarks("", 12)
	d.stop()
	d.wantLosses()
	if strings.Contains(d.log.String(), "stream has lost") {
		t.Error(d.log.String())
	}
}

// An erasure is not a loss while its tombstone is missing only on the replica that is read.
// Here that is the stream of another account.
func TestNoLossOnALaggingReplica(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`
		listen: "127.0.0.1:-1"
		no_auth_user: ingress
		accounts {
			LEADER {
				jetstream: enabled
				users: [{user: leader, password: p}]
				exports: [{service: "$JS.API.INFO"}, {service: "$JS.API.STREAM.>"}, {service: "versive.>"}]
			}
			REPLICA {
				jetstream: enabled
				users: [{user: replica, password: p}]
				exports: [{service: "$JS.API.CONSUMER.>", response_type: stream}]
			}
			INGRESS {
				users: [{user: ingress, password: p}]
				imports: [
					{service: {account: LEADER, subject: "$JS.API.INFO"}}, {service: {account: LEADER, subject: "$JS.API.STREAM.>"}}
					{service: {account: LEADER, subject: "versive.>"}}, {service: {account: REPLICA, subject: "$JS.API.CONSUMER.>"}}
				]
			}
		}`), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := embeddedtest.StartBroker(t, embedded.Config{ConfigFile: file})
	leader := embeddedtest.Connect(t, broker.URL(), nats.UserInfo("leader", "p"))
	replica := embeddedtest.Connect(t, broker.URL(), nats.UserInfo("replica", "p"))
	log := &embeddedtest.Log{}
	cfg := config(broker.URL())
	cfg.Logger, cfg.MarksDir = slog.New(slog.NewTextHandler(log, nil)), t.TempDir()
	p := openPublisher(t, cfg)
	stream, err := leader.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replica.CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	copyTo := func(id string) {
		if _, err := replica.PublishMsg(t.Context(), &nats.Msg{Subject: event(t, id).Subject("versive")}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if _, err := p.Publish(t.Context(), event(t, fmt.Sprint("msg_", i))); err != nil {
			t.Fatal(err)
		}
	}
	copyTo("msg_0")
	copyTo("msg_1")
	if err := (publish.Eraser{JetStream: leader, Stream: "VERSIVE"}).Erase(t.Context(), publish.Copy{Subject: event(t, "msg_0").Subject("versive"), Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	reported := func() string {
		losses, _, err := publish.ReadLosses(cfg.MarksDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return fmt.Sprint(losses) + log.String()
	}
	embeddedtest.Await(t, "the replica lags", func() bool { return strings.Contains(reported(), "lags") || strings.Contains(reported(), "has lost") })
	copyTo("msg_2")
	tombstone, err := schema.Tombstone(schema.KindEvent, event(t, "msg_0").Subject("versive"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replica.PublishMsg(t.Context(), &nats.Msg{Subject: event(t, "msg_0").Subject("versive"), Header: tombstone.Header}, jetstream.WithMsgID(tombstone.ID)); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "the tombstone is found", func() bool {
		return strings.Contains(log.String(), "resolved") || strings.Contains(log.String(), "has lost")
	})
	if text := reported(); strings.Contains(text, "has lost") {
		t.Error(text)
	}
}

// A leader that was replaced, and does not know it yet, lacks what was stored since. That is
// no loss, unless it stays so.
func TestNoLossFromAFormerLeader(t *testing.T) {
	t.Parallel()
	var lag atomic.Uint64
	answered := make(chan struct{}, 1)
	broker := embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		info.State.LastSeq -= lag.Load()
		info.Cluster = &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b", Current: true}, {Name: "c", Current: true}}}
		select {
		case answered <- struct{}{}:
		default:
		}
	})
	log := &embeddedtest.Log{}
	cfg := config(broker.URL())
	cfg.Logger, cfg.MarksDir = slog.New(slog.NewTextHandler(log, nil)), t.TempDir()
	p := openPublisher(t, cfg)
	for i := range 3 {
		if _, err := p.Publish(t.Context(), event(t, fmt.Sprint("msg_", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []uint64{2, 0} {
		lag.Store(n)
		for range 4 { // the first two may have begun before
			embeddedtest.Receive(t, "the state is requested", answered)
		}
	}
	if strings.Contains(log.String(), "has lost") {
		t.Error(log.String())
	}
	lag.Store(2)
	embeddedtest.Await(t, "what stays so is a loss", func() bool { return strings.Contains(log.String(), "sequences=2-3") })
}

// So is the list of deleted sequences that such a leader returns, after the leader has
// returned the state without it.
func TestNoLossFromAFormerLeadersList(t *testing.T) {
	t.Parallel()
	var requests, lag atomic.Uint64
	broker := embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		info.Cluster = &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b", Current: true}, {Name: "c", Current: true}}}
		info.State.NumDeleted = 1 // so that each look requests the list, which it does not get
		if lag.Load() == 1+requests.Add(1)%2 {
			info.State.LastSeq--
		}
	})
	log := &embeddedtest.Log{}
	cfg := config(broker.URL())
	cfg.Logger, cfg.MarksDir = slog.New(slog.NewTextHandler(log, nil)), t.TempDir()
	p := openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(2) { // every other answer lacks the message
		lag.Store(1 + n)
		before := requests.Load()
		embeddedtest.Await(t, "the state and the list are requested twice", func() bool { return requests.Load() > before+4 })
	}
	if strings.Contains(log.String(), "has lost") {
		t.Error(log.String())
	}
}

// A server that has just started answers for streams that others lead, too.
func TestOpenStreamOfTheLeader(t *testing.T) {
	t.Parallel()
	answers := []*jetstream.ClusterInfo{
		nil,
		{Leader: "b"}, // its Raft node is not running yet
		{Replicas: []*jetstream.PeerInfo{{Name: "a"}, {Name: "b"}, {Name: "c"}}},
		{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "a"}, {Name: "c"}}},
		{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b"}, {Name: "c"}}}, // the leader
		{Leader: "b"},
	}
	broker := embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		info.Config.Replicas, info.Cluster, answers = 3, answers[0], answers[1:]
		if len(answers) != 1 {
			info.State.LastSeq = 0
		}
	})
	js := embeddedtest.Connect(t, broker.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE", Subjects: []string{"versive.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "versive.a", nil); err != nil {
		t.Fatal(err)
	}
	stream, err := publish.OpenStream(t.Context(), js, "VERSIVE")
	if err != nil || stream.CachedInfo().State.LastSeq != 1 {
		t.Fatalf("%+v, %v", stream, err)
	}
	if gone, err := publish.Deleted(t.Context(), stream, []uint64{1}); !errors.Is(err, publish.ErrNotLeader) {
		t.Errorf("%v are deleted: %v", gone, err)
	}
}

// Expiry is not a loss, but a purge before the maximum age is.
func TestNoLossByAge(t *testing.T) {
	d := newIngressDir(t)
	d.restart(func() { d.cfg.MaxAge = time.Hour })
	d.store(3, 10)
	stream, err := d.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	d.wantLosses("VERSIVE removed 1")
	changed := stream.CachedInfo().Config
	changed.MaxAge, changed.Duplicates = 2*time.Second, 2*time.Second
	if _, err := d.js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "everything has expired", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	d.store(1, 10)
	d.wantMarks("", 4)
	d.restart(func() {})
	d.wantLosses("VERSIVE removed 1")
}

// Messages that expired while the ingress was stopped are no loss either, if it is started
// with a longer maximum age.
func TestNoLossByAnEarlierAge(t *testing.T) {
	d := newIngressDir(t)
	stream, err := d.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	short := stream.CachedInfo().Config
	short.MaxAge, short.Duplicates = 2*time.Second, 2*time.Second
	if _, err := d.js.UpdateStream(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	d.store(3, 10)
	d.restart(func() {
		d.cfg.MaxAge = time.Hour
		time.Sleep(short.MaxAge) // until all have expired
	})
	d.store(1, 10)
	d.wantMarks("", 4)
	d.wantLosses()
}

// A loss that was acknowledged does not hide that of a message which has its sequence.
func TestAcknowledgedSequenceIsLostAgain(t *testing.T) {
	d := newIngressDir(t)
	for i := range 9 {
		d.publish(event(t, fmt.Sprint("msg_", i+1)))
	}
	d.p.ReportUnreadable(schema.KindEvent, schema.SequenceRange(9, 9))
	d.wantLosses("VERSIVE unreadable 9")
	d.acknowledge()
	d.restart(func() {
		d.removeIndex("VERSIVE") // as after a kill
		d.flip("VERSIVE", "1.blk", "msg_9\r\n", 0)
	})
	if got := d.publish(event(t, "msg_10")); got != 9 {
		t.Fatalf("the next event has sequence %d", got)
	}
	d.wantMarks("", 9)
	d.p.ReportUnreadable(schema.KindEvent, schema.SequenceRange(9, 9))
	d.wantLosses("VERSIVE went_back 9", "VERSIVE unreadable 9")
	d.acknowledge()
	d.restart(func() {})
	d.wantLosses()
}

// A purge of messages that have not reached the maximum age is a loss, even if the first
// message of the stream had.
func TestPurgeAfterExpiry(t *testing.T) {
	d := newIngressDir(t)
	stream, err := d.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxAge, config.Duplicates = time.Hour, time.Hour
	if _, err := d.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	d.store(1, 10)
	d.wantMarks("", 1)
	d.store(5, 10)
	d.p.Close()
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.restart(func() {
		file := filepath.Join(d.dir, "marks.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		old := []byte(`"first_time": "` + time.Now().Add(-2*time.Hour).UTC().Format(time.RFC3339) + `"`)
		if err := os.WriteFile(file, regexp.MustCompile(`"first_time": "2[^"]*"`).ReplaceAll(text, old), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	d.wantLosses("VERSIVE removed 2-6")
}
