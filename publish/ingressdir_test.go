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
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// An ingressDir is a data directory with a broker and a publisher, which start and stop
// as those of an ingress.
type ingressDir struct {
	t      *testing.T
	dir    string
	listen string // address of the broker
	cfg    publish.Config
	broker *embedded.Broker
	p      *publish.Publisher
	js     jetstream.JetStream
	log    embeddedtest.Log
}

func newIngressDir(t *testing.T) *ingressDir {
	t.Parallel()
	d := &ingressDir{t: t, dir: t.TempDir(), listen: embeddedtest.FreeAddress(t), cfg: config("")}
	d.cfg.Logger = slog.New(slog.NewTextHandler(&d.log, nil))
	d.start()
	t.Cleanup(func() { d.p.Close() })
	return d
}

func (d *ingressDir) start() {
	d.t.Helper()
	d.startBroker()
	registry := prometheus.NewRegistry()
	d.cfg.URL, d.cfg.MarksDir, d.cfg.Metrics = d.broker.URL(), d.dir, registry
	d.p = openPublisher(d.t, d.cfg)
	d.js = embeddedtest.Connect(d.t, d.broker.URL())
}

func (d *ingressDir) startBroker() {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream { limits { max_request_batch: 3 } }", d.listen) // fewer than are wanted
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.broker = embeddedtest.StartBroker(d.t, embedded.Config{Dir: d.dir, ConfigFile: file})
}

func (d *ingressDir) stop() {
	d.p.Close()
	d.broker.Stop()
}

// restart stops everything, calls change and starts everything.
func (d *ingressDir) restart(change func()) {
	d.t.Helper()
	d.stop()
	change()
	d.start()
}

// store stores n events with transcripts of a size, and returns the last sequence.
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

// flip flips a bit of a block file, at an offset from the first occurrence of the
// marker.
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

// removeIndex removes the index that the server writes when it shuts down gracefully.
func (d *ingressDir) removeIndex(stream string) {
	d.t.Helper()
	if err := os.Remove(d.file(stream, "index.db")); err != nil {
		d.t.Fatal(err)
	}
}

// losses returns the unacknowledged losses as strings.
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

// wantLosses waits until the unacknowledged losses are as wanted.
func (d *ingressDir) wantLosses(want ...string) {
	d.t.Helper()
	deadline := time.Now().Add(embeddedtest.Timeout)
	for !slices.Equal(d.losses(), want) {
		if time.Now().After(deadline) {
			d.t.Fatalf("reported %q, want %q\n%s", d.losses(), want, d.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// acknowledge acknowledges all losses.
func (d *ingressDir) acknowledge() {
	d.t.Helper()
	losses, _, err := publish.ReadLosses(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := publish.Acknowledge(d.dir, losses, nil); err != nil {
		d.t.Fatal(err)
	}
	d.wantLosses()
}

// wantMarks waits until the mark of the event stream has the deleted and last sequences,
// and no suspects.
func (d *ingressDir) wantMarks(deleted string, last uint64) {
	d.t.Helper()
	embeddedtest.Await(d.t, "the marks have the deletion of "+deleted, func() bool {
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
