package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func TestRange(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "study.a", "i1")
	s.store(t, "msg_2", "study.b", "i2")
	s.store(t, "msg_3", "study.a", "i3")
	time.Sleep(2 * time.Millisecond) // the stored times must differ
	s.store(t, "msg_4", "study.b", "i1")
	s.store(t, "msg_5", "study.a", "i5")
	all := read(t, s.source, subscribe.Selection{})
	fourth := all[3].Time

	for name, test := range map[string]struct {
		sel  subscribe.Selection
		want []uint64
	}{
		"all":                         {subscribe.Selection{}, []uint64{1, 2, 3, 4, 5}},
		"by sequence":                 {subscribe.Selection{First: 2, Last: 4}, []uint64{2, 3, 4}},
		"first alone":                 {subscribe.Selection{First: 4}, []uint64{4, 5}},
		"last alone":                  {subscribe.Selection{Last: 2}, []uint64{1, 2}},
		"last beyond the stream":      {subscribe.Selection{Last: 9}, []uint64{1, 2, 3, 4, 5}},
		"first beyond the stream":     {subscribe.Selection{First: 9}, nil},
		"first beyond last":           {subscribe.Selection{First: 4, Last: 3}, nil},
		"since":                       {subscribe.Selection{Since: fourth}, []uint64{4, 5}},
		"until":                       {subscribe.Selection{Until: fourth}, []uint64{1, 2, 3}},
		"since and first":             {subscribe.Selection{First: 2, Since: fourth}, []uint64{4, 5}},
		"since the future":            {subscribe.Selection{Since: time.Now().Add(time.Hour)}, nil},
		"until the past":              {subscribe.Selection{Until: time.Now().Add(-time.Hour)}, nil},
		"by study":                    {subscribe.Selection{Filter: schema.Filter{StudyID: "study.a"}}, []uint64{1, 3, 5}},
		"by interview":                {subscribe.Selection{Filter: schema.Filter{InterviewID: "i1"}}, []uint64{1, 4}},
		"by both, and sequence":       {subscribe.Selection{Filter: schema.Filter{StudyID: "study.a", InterviewID: "i1"}, First: 2}, nil},
		"matches stop before the end": {subscribe.Selection{Filter: schema.Filter{InterviewID: "i3"}}, []uint64{3}},
		"by type":                     {subscribe.Selection{Filter: schema.Filter{Type: "interview.completed"}, Last: 1}, []uint64{1}},
		"by another type":             {subscribe.Selection{Filter: schema.Filter{Type: "interview.started"}}, nil},
		"by subject":                  {subscribe.Selection{Subject: "versive.*.*.study%2Eb.>"}, []uint64{2, 4}},
		"quarantine":                  {subscribe.Selection{Kind: schema.KindQuarantine}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			if diff := cmp.Diff(test.want, sequences(read(t, s.source, test.sel))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if elapsed := time.Since(began); elapsed > 6*time.Second { // a range that waits does so for 7 s
				t.Errorf("took %v: it waited for messages that do not exist", elapsed)
			}
		})
	}

	t.Run("message", func(t *testing.T) {
		m := all[0]
		event, err := m.Event()
		if err != nil || event.ID != "msg_1" || event.StudyID != "study.a" || m.ID != "msg_1" || m.Erased() {
			t.Errorf("got %+v, %v", event, err)
		}
		if m.Subject != "versive.interview.completed.study%2Ea.i1.msg_1" || time.Since(m.Time) > time.Minute || m.Time.Location() != time.UTC {
			t.Errorf("got %s at %v", m.Subject, m.Time)
		}
	})
	t.Run("pending", func(t *testing.T) {
		for _, sel := range []subscribe.Selection{{}, {First: 2, Last: 4}, {Until: fourth}, {Since: all[1].Time, Filter: schema.Filter{StudyID: "study.a"}}} {
			list := read(t, s.source, sel)
			for i, m := range list {
				if want := uint64(len(list) - 1 - i); m.Pending != want {
					t.Errorf("%+v: message %d of %d has %d pending, want %d", sel, i+1, len(list), m.Pending, want)
				}
			}
		}
	})
	t.Run("headers only", func(t *testing.T) {
		for i, m := range read(t, s.source, subscribe.Selection{HeadersOnly: true}) {
			if len(m.Data) != 0 || m.Size != len(all[i].Data) || m.Header.Get("ce-id") != all[i].ID {
				t.Errorf("got %d bytes, size %d, want none and %d", len(m.Data), m.Size, len(all[i].Data))
			}
		}
	})
	t.Run("leaves no consumer", func(t *testing.T) {
		stream, err := s.js.Stream(t.Context(), "VERSIVE")
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			t.Errorf("consumer %s is left", name)
		}
	})
}

// A range does not yield messages that are stored while it reads: otherwise it
// might never end.
func TestRangeEndsWhereItBegan(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 3)
	var got []uint64
	for m, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Sequence)
		s.store(t, "more_"+m.ID, "study", "i")
	}
	if want := []uint64{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The last messages may be deleted while the consumer has them pending.
func TestRangeEndsWithoutItsLastMessages(t *testing.T) {
	t.Parallel()
	source, stream := newMemoryStream(t, 10)
	n := 0
	for _, err := range source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("memory.*.*.*.late.>")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != readAhead {
		t.Errorf("got %d messages, want %d", n, readAhead)
	}
}

// A range whose stream is deleted ends with an error.
func TestRangeEndsWithItsStream(t *testing.T) {
	t.Parallel()
	source, _ := newMemoryStream(t, 10)
	n := 0
	for _, err := range source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			if !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Errorf("got %v", err)
			}
			return
		}
		if n++; n == 1 {
			if err := source.JetStream.DeleteStream(t.Context(), source.Stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Errorf("ended without an error after %d messages", n)
}

// readAhead is how many messages a range requests at a time.
const readAhead = 1000

// newMemoryStream returns a stream with more messages than a range requests at a
// time. The last ones are of the interview "late".
func newMemoryStream(t *testing.T, late int) (subscribe.Source, jetstream.Stream) {
	t.Helper()
	s := newSystem(t)
	stream, err := s.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MEMORY", Subjects: []string{"memory.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	for i := range readAhead + late {
		interview := "early"
		if i >= readAhead {
			interview = "late"
		}
		if _, err := s.js.PublishAsync(fmt.Sprintf("memory.interview.completed.s.%s.msg_%d", interview, i), nil); err != nil {
			t.Fatal(err)
		}
	}
	embeddedtest.Receive(t, "all are stored", s.js.PublishAsyncComplete())
	return subscribe.Source{JetStream: s.js, Stream: "MEMORY", Subject: "memory"}, stream
}

func TestRangeErrors(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeMany(t, 1)
	fails := func(ctx context.Context, source subscribe.Source, sel subscribe.Selection) error {
		t.Helper()
		for _, err := range source.Range(ctx, sel) {
			if err != nil {
				return err
			}
		}
		return nil
	}

	elsewhere := subscribe.Source{JetStream: s.js, Stream: "ELSEWHERE"}
	if err := fails(t.Context(), elsewhere, subscribe.Selection{}); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("no stream: got %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fails(canceled, s.source, subscribe.Selection{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: got %v", err)
	}
	waiting, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := fails(waiting, s.source, subscribe.Selection{Follow: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while waiting: got %v", err)
	}
	js := embeddedtest.Connect(t, s.URL())
	time.AfterFunc(50*time.Millisecond, js.Conn().Close)
	if err := fails(t.Context(), subscribe.Source{JetStream: js}, subscribe.Selection{Follow: true}); err == nil {
		t.Error("connection closed: no error")
	}
}

// A server that has just started, and has nothing of the stream yet, does not shorten a
// range.
func TestRangeWaitsForTheLeader(t *testing.T) {
	t.Parallel()
	var stale atomic.Int64
	s := openSystem(t, embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		if stale.Add(-1) >= 0 {
			info.Config.Replicas, info.State.LastSeq = 3, 0
			info.Cluster = &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "a"}, {Name: "b"}}}
		}
	}), 1)
	s.storeMany(t, 3)
	stale.Store(2)
	n := 0
	for _, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// A range that follows survives a restart of the broker, and neither misses an
// event nor repeats one. It reads a stream that was recreated from its beginning.
func TestRangeFollows(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	broker := embeddedtest.StartBroker(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())
	create := func() {
		t.Helper()
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE", Subjects: []string{"versive.>"}}); err != nil {
			t.Fatal(err)
		}
	}
	put := func(id string) {
		t.Helper()
		embeddedtest.Await(t, "the broker stores", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := js.Publish(ctx, "versive.interview.completed.s.i."+id, nil, jetstream.WithMsgID(id))
			return err == nil
		})
	}
	create()

	ctx, cancel := context.WithCancel(t.Context())
	var got record
	ended := make(chan error, 1)
	go func() {
		for m, err := range (subscribe.Source{JetStream: js}).Range(ctx, subscribe.Selection{Follow: true}) {
			if err != nil {
				ended <- err
				return
			}
			got.add(m.ID)
		}
		ended <- nil
	}()
	put("a")
	put("b")
	embeddedtest.Await(t, "two are read", func() bool { return len(got.list()) == 2 })
	broker.Stop()
	embeddedtest.StartBroker(t, cfg)
	put("c")
	embeddedtest.Await(t, "the third is read", func() bool { return len(got.list()) == 3 })
	if err := js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	create()
	put("d")
	embeddedtest.Await(t, "the fourth is read", func() bool { return len(got.list()) == 4 })
	for _, id := range []string{"e", "f", "g", "h", "i"} { // as many as there were before, and more
		put(id)
	}
	embeddedtest.Await(t, "all are read", func() bool { return len(got.list()) == 9 })
	cancel()
	if err := embeddedtest.Receive(t, "Range ends", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}, got.list()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A range asks the leader of the stream whether it is at its end. A replica that lags
// may answer a direct get.
func TestRangeAsksTheLeader(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.store(t, "msg_1", "study_a", "one")
	s.store(t, "msg_2", "study_b", "two")
	direct, err := s.js.Conn().SubscribeSync("$JS.API.DIRECT.GET.>")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m, err := range s.source.Range(t.Context(), subscribe.Selection{Filter: schema.Filter{StudyID: "study_a"}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.ID)
	}
	if want := []string{"msg_1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := s.js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := direct.Pending(); n != 0 {
		t.Errorf("%d direct gets", n)
	}
}

// A bounded range resumes from its position after a restart of the broker.
func TestRangeResumes(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
	s := newSystemIn(t, cfg)
	s.storeMany(t, 5)
	var got []uint64
	for m, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Sequence)
		if len(got) == 2 {
			s.Stop()
			embeddedtest.StartBroker(t, cfg)
		}
	}
	if want := []uint64{1, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A cutDialer closes its connection after left bytes were read.
type cutDialer struct{ left atomic.Int64 }

func (d *cutDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return cutConn{conn, d}, err
}

type cutConn struct {
	net.Conn
	dialer *cutDialer
}

func (c cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if before := c.dialer.left.Add(int64(-n)); before <= 0 && before > int64(-n) {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// The last message is lost with the connection, so no later one shows the gap.
func TestRangeReadsLostMessagesAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const size = 800 << 10
	for i := range 3 {
		if _, err := s.js.Publish(t.Context(), fmt.Sprint("versive.interview.completed.s.i.msg_", i), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	dialer := new(cutDialer)
	dialer.left.Store(2.5 * size)
	source := subscribe.Source{JetStream: embeddedtest.Connect(t, s.URL(), nats.SetCustomDialer(dialer))}
	if got, want := sequences(read(t, source, subscribe.Selection{})), []uint64{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if dialer.left.Load() > 0 {
		t.Error("the connection was not lost")
	}
}
