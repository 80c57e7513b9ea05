package publish_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

// An ingressDir is a data directory with a broker and a publisher that start
// and stop as an ingress does.
type ingressDir struct {
	t      *testing.T
	dir    string
	cfg    publish.Config // without the URL
	broker *embedded.Broker
	p      *publish.Publisher
	js     jetstream.JetStream
	log    lockedBuffer
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func newIngressDir(t *testing.T) *ingressDir {
	t.Parallel()
	d := &ingressDir{t: t, dir: t.TempDir(), cfg: config("")}
	d.cfg.Logger = slog.New(slog.NewTextHandler(&d.log, nil))
	d.start()
	t.Cleanup(func() { d.p.Close() })
	return d
}

func (d *ingressDir) start() {
	d.t.Helper()
	d.broker = startBroker(d.t, embedded.Config{Dir: d.dir})
	registry := prometheus.NewRegistry()
	d.cfg.URL, d.cfg.MarksDir, d.cfg.Metrics = d.broker.URL(), d.dir, registry
	d.p = openPublisher(d.t, d.cfg)
	d.js = connect(d.t, d.broker.URL())
}

func (d *ingressDir) stop() {
	d.p.Close()
	d.broker.Stop()
}

// restart stops everything, changes the directory and starts again.
func (d *ingressDir) restart(change func()) {
	d.t.Helper()
	d.stop()
	change()
	d.start()
}

// store stores n events of a size and returns the sequence of the last one.
func (d *ingressDir) store(n, size int) (last uint64) {
	d.t.Helper()
	for i := range n {
		id := fmt.Sprintf("msg_%d_%d", time.Now().UnixNano(), i)
		body := fmt.Sprintf(`{"event_type":"interview.completed","interview":{"id":%q,"transcript":%q},"study":{"id":"s"}}`, "i_"+id, strings.Repeat("x", size))
		m, err := schema.Normalize(id, []byte(body))
		if err != nil {
			d.t.Fatal(err)
		}
		last = d.publish(m)
	}
	return last
}

func (d *ingressDir) publish(m schema.Message) uint64 {
	d.t.Helper()
	receipt, err := d.p.Publish(d.t.Context(), m)
	if err != nil {
		d.t.Fatal(err)
	}
	return receipt.Sequence
}

// file returns the path of a stream's file.
func (d *ingressDir) file(stream, name string) string {
	return filepath.Join(d.dir, "jetstream", "$G", "streams", stream, "msgs", name)
}

// flip changes a byte of a block file, so many bytes behind the place where a
// sequence's message id stands.
func (d *ingressDir) flip(stream, block, marker string, offset int) {
	d.t.Helper()
	file := d.file(stream, block)
	text, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	at := bytes.Index(text, []byte(marker))
	if at < 0 {
		d.t.Fatalf("%s has no %q", file, marker)
	}
	text[at+offset] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// removeIndex takes away what the server writes when it stops in order.
func (d *ingressDir) removeIndex(stream string) {
	d.t.Helper()
	if err := os.Remove(d.file(stream, "index.db")); err != nil {
		d.t.Fatal(err)
	}
}

// losses returns what was reported and is not acknowledged, one a line.
func (d *ingressDir) losses() []string {
	d.t.Helper()
	losses, _, err := publish.ReadLosses(d.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	var list []string
	for _, l := range losses {
		list = append(list, fmt.Sprintf("%s %s %v", l.Stream, string(l.Problem), l.Sequences))
	}
	return list
}

// wantLosses waits until exactly these were reported.
func (d *ingressDir) wantLosses(want ...string) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for !slices.Equal(d.losses(), want) {
		if time.Now().After(deadline) {
			d.t.Fatalf("reported %q, want %q\n%s", d.losses(), want, d.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wantSeen waits until all that is deleted from the event stream was seen and
// explained, and its last sequence is marked.
func (d *ingressDir) wantSeen(deleted string, last uint64) {
	d.t.Helper()
	await(d.t, "the deletion of "+deleted+" is seen", func() bool {
		var content struct {
			Streams map[string]struct {
				Deleted, Suspects string
				Last              uint64
			}
		}
		text, err := os.ReadFile(filepath.Join(d.dir, "marks.json"))
		if err != nil || json.Unmarshal(text, &content) != nil {
			return false
		}
		m := content.Streams["VERSIVE"]
		return m.Deleted == deleted && m.Suspects == "" && m.Last == last
	})
}

func (d *ingressDir) metrics() map[string]float64 {
	return gather(d.t, d.cfg.Metrics.(*prometheus.Registry))
}

// A byte that has flipped makes the server drop the rest of the block when it
// reads the block at the start, and the sequences are used again.
func TestLossAtTheEnd(t *testing.T) {
	d := newIngressDir(t)
	for i := range 9 {
		d.publish(event(t, fmt.Sprint("msg_", i+1)))
	}
	d.restart(func() {
		d.removeIndex("VERSIVE") // as after a kill
		d.flip("VERSIVE", "1.blk", "msg_6\r\n", 0)
	})
	d.wantLosses("VERSIVE went_back 6-9")
	if got := d.publish(event(t, "msg_10")); got != 6 {
		t.Errorf("the next event has sequence %d", got)
	}
	d.restart(func() {})
	d.wantLosses("VERSIVE went_back 6-9") // once
	if got := d.metrics(); got["stream_lost_events_total VERSIVE"] != 4 || got["stream_lost_events_acknowledged_total VERSIVE"] != 0 {
		t.Errorf("metrics are %v", got)
	}
	log := d.log.String()
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "stream=VERSIVE problem=went_back messages=4 sequences=6-9") {
		t.Errorf("the log does not say so:\n%s", log)
	}

	losses, _, err := publish.ReadLosses(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish.Acknowledge(d.dir, losses, nil); err != nil {
		t.Fatal(err)
	}
	d.wantLosses()
	await(t, "the metric falls silent", func() bool {
		got := d.metrics()
		return got["stream_lost_events_total VERSIVE"] == 4 && got["stream_lost_events_acknowledged_total VERSIVE"] == 4
	})
	d.restart(func() {})
	if got := d.metrics(); got["stream_lost_events_total VERSIVE"] != 4 || got["stream_lost_events_acknowledged_total VERSIVE"] != 4 {
		t.Errorf("after a restart the metrics are %v", got)
	}
}

// The same in a block that others follow.
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

// A record whose length has changed makes the server drop the rest of the block
// while it runs, as soon as somebody reads it. From the other streams messages
// are deleted every day, so here it is the server that says what is lost.
func TestLossWhileRunning(t *testing.T) {
	d := newIngressDir(t)
	for i := range 20 {
		body := fmt.Sprintf("not understood %d %s", i+1, strings.Repeat("x", 1<<20))
		d.publish(schema.Quarantine(fmt.Sprint("msg_", i+1), []byte(body), &schema.Error{Reason: schema.Malformed}, nil))
	}
	d.restart(func() { d.flip("VERSIVE_QUARANTINE", "2.blk", "versive-quarantine.", -20) }) // in a record's length
	d.wantLosses("VERSIVE_QUARANTINE removed 8-14")                                         // the depth is counted, which reads it
}

func TestLossByHand(t *testing.T) {
	d := newIngressDir(t)
	d.store(5, 10)
	d.wantSeen("", 5)
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
	d.wantSeen("", 7)
	if err := d.js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	d.wantLosses("VERSIVE removed 3", "VERSIVE removed 1-2, 4-5", "VERSIVE recreated 6-7")
	await(t, "the stream is there again", func() bool { _, err := d.js.Stream(t.Context(), "VERSIVE"); return err == nil })
	d.store(1, 10)
	d.restart(func() {
		if err := os.RemoveAll(filepath.Join(d.dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	})
	d.wantLosses("VERSIVE removed 3", "VERSIVE removed 1-2, 4-5", "VERSIVE recreated 6-7",
		"VERSIVE recreated 1", "VERSIVE_QUARANTINE recreated ")
	got := d.metrics()
	if got["stream_recreated_total VERSIVE"] != 2 || got["stream_lost_events_total VERSIVE"] != 8 || got["stream_recreated_acknowledged_total VERSIVE"] != 0 {
		t.Errorf("metrics are %v", got)
	}
}

// Whatever is deleted on purpose or in order is no loss.
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
	d.wantSeen("4,6", 9)
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
	d.wantSeen("4,6", 9)

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
	d.wantSeen("4,6", 10)

	// One whose tombstone was put where no copy was known.
	if err := eraser().Bury(t.Context(), schema.KindEvent, copies[2].Subject); err != nil {
		t.Fatal(err)
	}
	if err := eraser().Erase(t.Context(), copies[2]); err != nil {
		t.Fatal(err)
	}
	d.wantSeen("6", 11)

	// An upgrade from a version that kept no marks; and marks that are damaged.
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
		d.wantSeen("6", 11)
		if said := strings.Contains(d.log.String(), "high-water marks cannot be read"); said != (text != "") {
			t.Errorf("with the marks %q:\n%s", text, d.log.String())
		}
	}
	if err := eraser().Erase(t.Context(), copies[4]); err != nil {
		t.Fatal(err)
	}
	d.wantSeen("", 12)
	d.stop()
	d.wantLosses()
	if strings.Contains(d.log.String(), "stream has lost") {
		t.Error(d.log.String())
	}
}

// What goes by its age is no loss, but a purge is, before it is due.
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
	stream2 := stream.CachedInfo().Config
	stream2.MaxAge, stream2.Duplicates = 2*time.Second, 2*time.Second
	if _, err := d.js.UpdateStream(t.Context(), stream2); err != nil {
		t.Fatal(err)
	}
	await(t, "all is too old", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	d.store(1, 10)
	d.wantSeen("", 4)
	d.restart(func() {})
	d.wantLosses("VERSIVE removed 1")
}
