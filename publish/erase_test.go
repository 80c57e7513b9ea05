package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// kept returns the subjects of a stream's messages, those of tombstones with a star.
func kept(t *testing.T, js jetstream.JetStream, stream string) []string {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if schema.IsTombstone(m.Header) {
			if len(m.Data) > 0 {
				t.Errorf("tombstone %d holds %q", seq, m.Data)
			}
			list = append(list, m.Subject+"*")
		} else {
			list = append(list, m.Subject)
		}
	}
	return list
}

// filesWith returns the files below dir that contain the marker.
func filesWith(t *testing.T, dir, marker string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed by the server
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(text, []byte(marker)) {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const marker = "PLANTED-MARKER"

// personal returns an event with markers in all members with content.
func personal(t *testing.T, id string) schema.Message {
	t.Helper()
	m, err := schema.Normalize(id, []byte(strings.ReplaceAll(`{"event_type":"interview.completed","interview":{"id":"i",
		"title":"MARK","transcript":"MARK","metadata":{"MARK":"MARK"},"parsed_conversation_json":[{"role":"user","content":"MARK"}],"MARK":"MARK"},
		"study":{"id":"s"},"MARK":["MARK"]}`, "MARK", marker)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// No file of the data directory contains any content of an erased message, neither
// immediately nor after a restart, and a resend is not stored.
func TestEraseLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	brokerCfg := embedded.Config{Dir: dir}
	broker := embeddedtest.StartBroker(t, brokerCfg)
	cfg := config(broker.URL())
	p := openPublisher(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}

	// Messages that are published alone, in a batch and to the quarantine.
	m := personal(t, "msg_1")
	raw := schema.Quarantine("msg_q", []byte(marker), &schema.Error{Reason: schema.Malformed}, map[string][]string{"Content-Type": {marker}})
	for _, message := range []schema.Message{event(t, "msg_0"), m, event(t, "msg_2"), raw} {
		if _, err := p.Publish(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	publishBatch(t, js, personal(t, "msg_3"), personal(t, "msg_4"), event(t, "msg_5"))
	if len(filesWith(t, dir, marker)) == 0 {
		t.Fatal("the markers are not on the disk before the erasure")
	}

	for _, c := range []publish.Copy{
		{Kind: schema.KindEvent, Subject: m.Subject("versive"), Sequence: 2},
		{Kind: schema.KindEvent, Subject: personal(t, "msg_3").Subject("versive"), Sequence: 4},
		{Kind: schema.KindEvent, Subject: personal(t, "msg_4").Subject("versive"), Sequence: 5},
		{Kind: schema.KindQuarantine, Subject: raw.Subject("versive"), Sequence: 1},
	} {
		if err := eraser.Erase(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	embeddedtest.Await(t, "no marker while the broker runs", func() bool { return len(filesWith(t, dir, marker)) == 0 })
	p.Close()
	broker.Stop()
	if files := filesWith(t, dir, marker); len(files) > 0 {
		t.Errorf("after the broker was stopped, the marker is in %v", files)
	}
	broker = embeddedtest.StartBroker(t, brokerCfg)
	if files := filesWith(t, dir, marker); len(files) > 0 {
		t.Errorf("after a restart, the marker is in %v", files)
	}

	cfg.URL = broker.URL()
	p = openPublisher(t, cfg)
	js = embeddedtest.Connect(t, broker.URL())
	for _, message := range []schema.Message{m, raw, m} {
		if got, err := p.Publish(t.Context(), message); err != nil || !got.Duplicate {
			t.Errorf("a resend of %s: got %+v, %v", message.ID, got, err)
		}
	}
	const prefix = "versive.interview.completed.s.i."
	want := fmt.Sprint([]string{prefix + "msg_0", prefix + "msg_2", prefix + "msg_5", prefix + "msg_1*", prefix + "msg_3*", prefix + "msg_4*"})
	if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := fmt.Sprint(kept(t, js, "VERSIVE_QUARANTINE")); got != "[versive-quarantine.msg_q*]" {
		t.Errorf("the quarantine holds %s", got)
	}
}

// publishBatch stores messages in one atomic batch.
func publishBatch(t *testing.T, js jetstream.JetStream, messages ...schema.Message) {
	t.Helper()
	for i, m := range messages {
		header := nats.Header(m.Header)
		header.Set(jetstream.MsgIDHeader, m.ID)
		header.Set("Nats-Batch-Id", "batch")
		header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
		if i == len(messages)-1 {
			header.Set("Nats-Batch-Commit", "1")
		}
		msg := &nats.Msg{Subject: m.Subject("versive"), Header: header, Data: m.Data}
		answer, err := js.Conn().RequestMsg(msg, embeddedtest.Timeout)
		if err != nil || bytes.Contains(answer.Data, []byte("error")) {
			t.Fatalf("message %d of a batch: %v", i, err)
		}
	}
}

// A copy that is erased several times concurrently gets one tombstone.
func TestEraseConcurrently(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	m := event(t, "msg_1")
	if _, err := p.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := publish.Copy{Kind: schema.KindEvent, Subject: m.Subject("versive"), Sequence: 1}
			if err := (publish.Eraser{JetStream: js, Stream: "VERSIVE"}).Erase(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != "["+m.Subject("versive")+"*]" {
		t.Errorf("the stream holds %s", got)
	}
}

// No copy is stored on a subject with a tombstone.
func TestPutTombstone(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	m := event(t, "msg_1")
	for range 2 {
		if err := (publish.Eraser{JetStream: js, Stream: "VERSIVE"}).PutTombstone(t.Context(), schema.KindEvent, m.Subject("versive")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := p.Publish(t.Context(), m); err != nil || !got.Duplicate {
		t.Errorf("got %+v, %v; want a duplicate", got, err)
	}
	if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != "["+m.Subject("versive")+"*]" {
		t.Errorf("the stream holds %s", got)
	}
}

// faulty loses either requests or answers of one kind.
type faulty struct {
	jetstream.JetStream
	fail string
}

var errLost = errors.New("lost")

func (f *faulty) do(what string, request func() error) error {
	if f.fail == what+" request" {
		return errLost
	}
	if err := request(); err != nil {
		return err
	}
	if f.fail == what+" answer" {
		return errLost
	}
	return nil
}

func (f *faulty) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	return ack, f.do("tombstone", func() error {
		ack, err = f.JetStream.PublishMsg(ctx, m, opts...)
		return err
	})
}

func (f *faulty) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := f.JetStream.Stream(ctx, name)
	return &faultyStream{s, f}, err
}

type faultyStream struct {
	jetstream.Stream
	*faulty
}

func (s *faultyStream) SecureDeleteMsg(ctx context.Context, seq uint64) error {
	return s.do("delete", func() error { return s.Stream.SecureDeleteMsg(ctx, seq) })
}

// After any failure, erasing again completes the erasure with one tombstone, whether
// or not the failed step was executed.
func TestEraseFailure(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	for i, test := range []struct {
		fail string
		left string // messages on the subject; a star marks a tombstone
		err  error
	}{
		{"tombstone request", "m", errLost},
		{"tombstone answer", "mm*", errLost},
		{"delete request", "mm*", errLost},
		{"delete answer", "m*", errLost}, // the copy is deleted, but may not be overwritten
	} {
		m := event(t, fmt.Sprint("msg_", i))
		receipt, err := p.Publish(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		c := publish.Copy{Kind: schema.KindEvent, Subject: m.Subject("versive"), Sequence: receipt.Sequence}
		left := func() string {
			var list []string
			for _, subject := range kept(t, js, "VERSIVE") {
				if strings.HasPrefix(subject, c.Subject) {
					list = append(list, strings.Replace(subject, c.Subject, "m", 1))
				}
			}
			return strings.Join(list, "")
		}
		if err := (publish.Eraser{JetStream: &faulty{js, test.fail}, Stream: "VERSIVE"}).Erase(t.Context(), c); !errors.Is(err, test.err) {
			t.Errorf("%s lost: got error %v", test.fail, err)
		}
		if got := left(); got != test.left {
			t.Errorf("%s lost: the stream holds %s, want %s", test.fail, got, test.left)
		}
		if err := (publish.Eraser{JetStream: js, Stream: "VERSIVE"}).Erase(t.Context(), c); err != nil {
			t.Errorf("%s lost, erasing again: %v", test.fail, err)
		}
		if got := left(); got != "m*" {
			t.Errorf("%s lost, after erasing again the stream holds %s", test.fail, got)
		}
	}
}

// A stream that does not allow erasure gets no tombstone.
func TestEraseRejectsStream(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"deny_delete":          func(c *jetstream.StreamConfig) { c.DenyDelete = true },
		"max-msgs-per-subject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			js := embeddedtest.Connect(t, broker.URL())
			if _, err := js.CreateStream(t.Context(), byHand(change)); err != nil {
				t.Fatal(err)
			}
			m := event(t, "msg_1")
			if _, err := openPublisher(t, config(broker.URL())).Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			c := publish.Copy{Kind: schema.KindEvent, Subject: m.Subject("versive"), Sequence: 1}
			eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
			for _, err := range []error{eraser.Erase(t.Context(), c), eraser.Delete(t.Context(), c)} {
				if conflict, ok := errors.AsType[*publish.ConflictError](err); !ok || !strings.Contains(conflict.Problem, name) {
					t.Errorf("got %v, want a ConflictError that names %s", err, name)
				}
			}
			if got := fmt.Sprint(kept(t, js, "VERSIVE")); got != "["+c.Subject+"]" {
				t.Errorf("the stream holds %s", got)
			}
		})
	}
}

// A full stream has no room for a tombstone: the error has the limit that is enough for any
// number of erasures, each of which frees more than it needs.
func TestEraseFromAFullStream(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	p := openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	var copies []publish.Copy
	for i := range 10 {
		m := personal(t, fmt.Sprint("msg_", i))
		receipt, err := p.Publish(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, publish.Copy{Subject: m.Subject("versive"), Sequence: receipt.Sequence})
	}
	p.Close()
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	limited := stream.CachedInfo().Config
	update := func() {
		t.Helper()
		if _, err := js.UpdateStream(t.Context(), limited); err != nil {
			t.Fatal(err)
		}
	}
	full := stream.CachedInfo().State
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	for i, test := range []struct {
		limit *int64
		full  uint64
		room  int64
		flag  string
	}{
		{&limited.MaxBytes, full.Bytes, 1 << 20, "--max-bytes"},
		{&limited.MaxMsgs, full.Msgs, 100, "--max-msgs"},
	} {
		*test.limit = int64(test.full)
		update()
		half := copies[5*i : 5*i+5]
		err := eraser.Erase(t.Context(), half[0])
		*test.limit += test.room
		if failure, ok := errors.AsType[*publish.Error](err); !ok || failure.Reason() != "full" || !strings.Contains(err.Error(), fmt.Sprintf("stream edit VERSIVE %s=%d, and erase again", test.flag, *test.limit)) {
			t.Fatalf("got %v", err)
		}
		update()
		for _, c := range half {
			if err := eraser.Erase(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		*test.limit = -1
		if info, err := stream.Info(t.Context()); err != nil || info.State.Bytes >= full.Bytes || info.State.Msgs > full.Msgs {
			t.Errorf("%d of %d bytes, %d of %d messages, %v", info.State.Bytes, full.Bytes, info.State.Msgs, full.Msgs, err)
		}
	}
}
