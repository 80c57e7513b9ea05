package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A hub that forwards is rejected: the edge itself, by its own address or through a
// proxy, and another edge. Each would confirm events that all of them then remove.
func TestForwardToAnEdge(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"itself", "itself through a proxy", "each other"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var edges []*edge
			s := edgeSettings(t, newProxy(t, "127.0.0.1:1", nil))
			s.MaxAge = time.Second
			other := newSettings(t)
			other.MaxAge = time.Second
			switch way {
			case "itself":
				s.ForwardURL = "nats://" + s.NATSListen
			case "itself through a proxy":
				s.ForwardURL = "nats://" + newProxy(t, s.NATSListen, nil).address()
			default:
				s.ForwardURL, other.ForwardURL = "nats://"+other.NATSListen, "nats://"+s.NATSListen
				edges = append(edges, runEdge(t, other, nil))
			}
			edges = append(edges, runEdge(t, s, nil))
			sent := make([][]string, len(edges))
			for i, e := range edges {
				for j := range 3 {
					sent[i] = append(sent[i], e.send(t, fmt.Sprintf("msg_%d_%d", i, j)))
				}
			}
			for i, e := range edges {
				embeddedtest.Await(t, "the log has the reason", func() bool { return strings.Contains(e.log.String(), "forwards events itself") })
				embeddedtest.Await(t, "the oldest is older than INGRESS_MAX_AGE", func() bool {
					return strings.Contains(e.metric("versive_ingress_forward_oldest_pending_seconds"), `{stream="VERSIVE"} 3`)
				})
				if have := idsIn(t, e.js, "VERSIVE"); !slices.Equal(have, sent[i]) {
					t.Errorf("edge %d has %v, want %v", i, have, sent[i])
				}
				if report, ok := diagnose(t, e.settings); ok || !strings.Contains(report, "hub_is_edge") {
					t.Errorf("doctor:\n%s", report)
				}
			}
		})
	}
}

// What the hub has confirmed and lost is forwarded again: when it was restored from an
// older copy, even if another edge has stored as much since, and when its stream was
// deleted. So are erasures.
func TestForwardToALossyHub(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	a, b := startEdge(t, h), startEdge(t, h)
	number := 0
	var expected []string
	send := func(e *edge, n int) {
		for range n {
			expected = append(expected, e.send(t, fmt.Sprintf("msg_%d", number)))
			number++
		}
	}
	awaitAll := func() {
		t.Helper()
		var have []string
		defer func() {
			if t.Failed() {
				t.Logf("the hub has %v\n%s", have, a.log)
			}
		}()
		embeddedtest.Await(t, "each event is at the hub once", func() bool {
			have = idsIn(t, h.js, "VERSIVE")
			slices.Sort(have)
			return slices.Equal(have, slices.Sorted(slices.Values(expected)))
		})
		embeddedtest.Await(t, "the positions are saved", func() bool { return a.pending(t)+b.pending(t) == 0 })
		time.Sleep(1500 * time.Millisecond) // the hub's position is saved once a second
	}
	send(a, 5)
	awaitAll()
	older := t.TempDir()
	h.Stop()
	if err := os.CopyFS(older, os.DirFS(h.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	send(a, 5)
	awaitAll()

	// Meanwhile the other edge fills the gap.
	a.link.sever()
	b.link.sever()
	h.Stop()
	h.cfg.Dir = older
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	send(b, 10)
	b.link.restore()
	embeddedtest.Await(t, "the other edge has forwarded", func() bool { return len(idsIn(t, h.js, "VERSIVE")) == 15 })
	a.link.restore()
	awaitAll()

	if err := h.js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	awaitAll()
	a.Stop()
	if err := h.js.DeleteStream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	a = runEdge(t, a.settings, a.link)
	awaitAll()
	for _, e := range []*edge{a, b} {
		if strings.Contains(e.log.String(), "stream has lost messages that were forwarded") {
			t.Errorf("the edge reports a loss of its own:\n%s", e.log)
		}
	}
}

// A leader of the hub's stream that was replaced, and does not know it yet, lacks what was
// stored since. That is no loss of the hub.
func TestForwardToAFormerLeader(t *testing.T) {
	t.Parallel()
	var stale, answers atomic.Int64
	h := &hub{Broker: embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		info.Config.Replicas = 3
		info.Cluster = &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b", Current: true}, {Name: "c", Current: true}}}
		if stale.Load() > 0 {
			info.State.LastSeq = 0
			answers.Add(1)
		}
	})}
	h.js = embeddedtest.Connect(t, h.URL())
	s := newSettings(t)
	s.ForwardURL = h.URL()
	e := runEdge(t, s, nil)
	awaitIDs(t, h.js, "VERSIVE", e.send(t, "msg_0"), e.send(t, "msg_1"))
	stale.Store(1)
	embeddedtest.Await(t, "the former leader answers for several seconds", func() bool { return answers.Load() > 12 }) // two a second
	stale.Store(0)
	awaitIDs(t, h.js, "VERSIVE", "msg_0", "msg_1", e.send(t, "msg_2"))
	if strings.Contains(e.log.String(), "hub has lost messages") {
		t.Error(e.log)
	}
}

// Whether an edge can be taken away is answered only by the leader of its position.
func TestForwardStatusOfTheLeader(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartEditedBroker(t, func(info *jetstream.StreamInfo) {
		info.Config.Replicas = 3
		info.Cluster = &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b"}, {Name: "c"}}}
	})
	js := embeddedtest.Connect(t, broker.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VERSIVE", Subjects: []string{"versive.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: forward.Consumer}); err != nil {
		t.Fatal(err)
	}
	if status, err := forward.ReadStatus(t.Context(), js, "VERSIVE"); !errors.Is(err, publish.ErrNotLeader) {
		t.Errorf("%+v, %v", status, err)
	}
}

// A hub is restored from a copy that an edge had not read to the end for its erasures: what
// it had confirmed later is forwarded again.
func TestForwardToAHubBeforeItsReply(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h)
	var sent []string
	more := func() {
		for range 5 {
			sent = append(sent, e.send(t, fmt.Sprint("msg_", len(sent))))
		}
		awaitIDs(t, h.js, "VERSIVE", sent...)
	}
	position := func() jetstream.ConsumerConfig {
		consumer, err := e.js.Consumer(t.Context(), "VERSIVE", forward.Consumer)
		if err != nil {
			t.Fatal(err)
		}
		return consumer.CachedInfo().Config
	}
	more()
	embeddedtest.Await(t, "the position at the hub is saved", func() bool { return position().Metadata["versive-ingress.erased"] == "5" })
	before := position()
	h.Stop()
	older := t.TempDir()
	if err := os.CopyFS(older, os.DirFS(h.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	more()
	embeddedtest.Await(t, "the position at the hub is saved", func() bool { return position().Metadata["versive-ingress.erased"] == "10" })
	e.link.sever()
	lagging := position()
	for _, key := range []string{"versive-ingress.erased", "versive-ingress.erased-time"} {
		lagging.Metadata[key] = before.Metadata[key]
	}
	if _, err := e.js.UpdateConsumer(t.Context(), "VERSIVE", lagging); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	h.Stop()
	h.cfg.Dir = older
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	e.link.restore()
	e = runEdge(t, e.settings, e.link)
	awaitIDs(t, h.js, "VERSIVE", sent...)
}

// Events that were stored with another INGRESS_SUBJECT are forwarded and erased under the
// current one.
func TestForwardAfterAnotherSubject(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"edge", "hub"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			h := startHub(t)
			before := newSettings(t)
			before.Subject = "old"
			first := run(t, before)
			if a := first.post(t, "msg_1", plantedBody("interview.completed", "interview_1")); a.Status != 200 {
				t.Fatalf("%v", a)
			}
			first.Stop()
			e := startEdge(t, h, func(s *config.Settings) { s.DataDir = before.DataDir })
			embeddedtest.Await(t, "the event is at the hub", func() bool { return len(idsIn(t, h.js, "VERSIVE")) == 1 })
			at := map[string]config.Settings{"edge": e.settings, "hub": withBroker(newSettings(t), h.cfg.Listen)}[place]
			must(t, at, "erase", "--interview", "interview_1", "--yes")
			embeddedtest.Await(t, "it is erased at both", func() bool {
				return len(live(t, e.js))+len(live(t, h.js))+len(filesWith(t, e.settings.DataDir, planted))+len(filesWith(t, h.cfg.Dir, planted)) == 0
			})
			embeddedtest.Await(t, "nothing pending", func() bool { return e.pending(t) == 0 })
		})
	}
}

// What another program has published at the edge is forwarded, and holds nothing up.
func TestForwardForeignMessages(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h)
	for _, subject := range []string{"versive.foreign", "versive.interview.completed"} {
		if _, err := e.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{schema.HeaderErased: {"true"}}}); err != nil {
			t.Fatal(err)
		}
	}
	awaitIDs(t, h.js, "VERSIVE", "foreign", "completed")
	awaitIDs(t, h.js, "VERSIVE", "foreign", "completed", e.send(t, "msg_1"))
}

// An edge with another INGRESS_SUBJECT or INGRESS_STREAM than the hub's streams changes
// nothing at the hub: resends under another subject would be stored twice.
func TestForwardToOtherStreams(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	first := startEdge(t, h)
	awaitIDs(t, h.js, "VERSIVE", first.send(t, "msg_1"))
	for want, change := range map[string]func(*config.Settings){
		`has the subjects [\"versive.>\"], not \"other.>\"`: func(s *config.Settings) { s.Subject = "other" },
		"set it back to the stream that has the events":     func(s *config.Settings) { s.Stream = "OTHER" },
	} {
		e := startEdge(t, h, change)
		e.send(t, "msg_2")
		embeddedtest.Await(t, "the log has: "+want, func() bool { return strings.Contains(e.log.String(), want) })
		awaitIDs(t, h.js, "VERSIVE", "msg_1")
		if report, ok := diagnose(t, e.settings); ok || !strings.Contains(report, "PROBLEM  hub") {
			t.Errorf("doctor:\n%s", report)
		}
	}
}

// Events wait while the hub is full, or is edited so that it would not keep them.
func TestForwardToAHubThatCannotKeep(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h)
	sent := []string{e.send(t, "msg_0")}
	awaitIDs(t, h.js, "VERSIVE", sent...)
	stream, err := h.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	good := stream.CachedInfo().Config
	full, discarding := good, good
	full.MaxMsgs = 1
	discarding.Discard, discarding.MaxMsgs = jetstream.DiscardOld, 100
	connected := func(value int) func() bool {
		return func() bool {
			return strings.HasSuffix(e.metric("versive_ingress_forward_connected"), fmt.Sprintf(" %d\n", value))
		}
	}
	for i, bad := range []jetstream.StreamConfig{full, discarding} {
		embeddedtest.Await(t, "the link is up", connected(1))
		if _, err := h.js.UpdateStream(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		embeddedtest.Await(t, "the link is reported down", connected(0))
		if report, _ := diagnose(t, e.settings); !strings.Contains(report, "hub_not_writable") {
			t.Errorf("doctor:\n%s", report)
		}
		before := idsIn(t, h.js, "VERSIVE")
		for j := range 5 {
			sent = append(sent, e.send(t, fmt.Sprintf("msg_%d_%d", i, j)))
		}
		embeddedtest.Await(t, "the hub is tried", func() bool { return strings.Count(e.log.String(), "hub has not confirmed a batch") > i })
		if have := idsIn(t, h.js, "VERSIVE"); !slices.Equal(have, before) {
			t.Errorf("the hub has %v, want %v", have, before)
		}
		if _, err := h.js.UpdateStream(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		awaitIDs(t, h.js, "VERSIVE", sent...)
	}
}
