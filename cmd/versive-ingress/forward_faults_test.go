package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// inOrder reports whether the hub has all messages of the edge's event stream, each once
// and in the order of the edge.
func (e *edge) inOrder(t testing.TB, h *hub) bool {
	t.Helper()
	own, at := idsIn(t, e.js, "VERSIVE"), make(map[string][]int)
	for i, id := range idsIn(t, h.js, "VERSIVE") {
		at[id] = append(at[id], i)
	}
	last := -1
	for _, id := range own {
		if len(at[id]) != 1 || at[id][0] < last {
			return false
		}
		last = at[id][0]
	}
	return true
}

// Answers of the hub that are lost, cut or late, and a link that is cut, cost nothing:
// neither an event nor its order, and nothing is stored twice.
func TestForwardThroughFaults(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	random := rand.New(rand.NewPCG(1, 2))
	var faulty sync.Mutex
	faults := 25
	link := newProxy(t, h.cfg.Listen, func() (v verdict) {
		faulty.Lock()
		defer faulty.Unlock()
		if faults == 0 {
			return v
		}
		switch random.IntN(20) {
		case 0:
			v.cut = true
		case 1:
			v.drop = true
		case 2:
			v.delay = 50 * time.Millisecond
		default:
			return v
		}
		faults--
		return v
	})
	e := runEdge(t, edgeSettings(t, link), link)
	var sending sync.WaitGroup
	for i := range 8 {
		sending.Go(func() {
			for j := range 40 {
				e.post(t, fmt.Sprintf("msg_%d_%d", i, j), interview(fmt.Sprintf("interview_%d_%d", i, j)))
				if i == 0 && j%10 == 0 {
					link.sever()
					time.Sleep(20 * time.Millisecond)
					link.restore()
				}
			}
		})
	}
	sending.Wait()
	embeddedtest.Await(t, "all is at the hub", func() bool { return len(idsIn(t, h.js, "VERSIVE")) >= 320 })
	if !e.inOrder(t, h) || len(idsIn(t, h.js, "VERSIVE")) != 320 {
		t.Errorf("the hub has\n%v\nthe edge\n%v", idsIn(t, h.js, "VERSIVE"), idsIn(t, e.js, "VERSIVE"))
	}
}

// An event that is resent to another edge is at the hub once, beyond the hub's window,
// and after the hub's restart.
func TestForwardResends(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	short := func(s *config.Settings) { s.DedupeWindow = time.Second }
	a, b := startEdge(t, h, short), startEdge(t, h, short)
	var sent []string
	for i := range 30 {
		sent = append(sent, a.send(t, fmt.Sprintf("msg_%d", i)))
	}
	awaitIDs(t, h.js, "VERSIVE", sent...)
	b.link.sever()
	for _, id := range sent {
		b.send(t, id)
	}
	time.Sleep(1500 * time.Millisecond) // longer than the window
	h.Stop()
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	b.link.restore()
	sent = append(sent, b.send(t, "msg_last"))
	awaitIDs(t, h.js, "VERSIVE", sent...)
}

// Processes that are killed while they forward lose nothing and repeat nothing.
func TestForwardKilled(t *testing.T) {
	t.Parallel()
	h := &hub{cfg: embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}}
	broker := launchBroker(t, h.cfg)
	h.js = embeddedtest.Connect(t, "nats://"+h.cfg.Listen)
	link := newProxy(t, h.cfg.Listen, nil)
	s := edgeSettings(t, link)
	process, _ := launch(t, "versive-ingress", s)
	awaitReady(t, s)
	l := startLoad(t, s, 8, 10*time.Millisecond)
	for range 3 {
		l.awaitAccepted(t, 150)
		kill(broker)
		l.awaitAccepted(t, 50)
		broker = launchBroker(t, h.cfg)
		l.awaitAccepted(t, 100)
		kill(process)
		process, _ = launch(t, "versive-ingress", s)
		awaitReady(t, s)
	}
	l.stop()
	e := &edge{&system{settings: s}, link, embeddedtest.Connect(t, "nats://"+s.NATSListen)}
	embeddedtest.Await(t, "all is at the hub", func() bool {
		return len(idsIn(t, h.js, "VERSIVE")) >= len(idsIn(t, e.js, "VERSIVE"))
	})
	if !e.inOrder(t, h) || len(idsIn(t, h.js, "VERSIVE")) != len(idsIn(t, e.js, "VERSIVE")) {
		t.Error("the hub does not have each event of the edge once, in order")
	}
	l.check(t)
	for id := range l.accepted {
		l.accepted[id] = 0
	}
	requireStored(t, h.js, "VERSIVE", l.accepted)
}

// A hub that accepts connections and does nothing else is noticed.
func TestForwardFrozenHub(t *testing.T) {
	t.Parallel()
	h := &hub{cfg: embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}}
	broker := launchBroker(t, h.cfg)
	h.js = embeddedtest.Connect(t, "nats://"+h.cfg.Listen)
	e := startEdge(t, h)
	sent := []string{e.send(t, "msg_0")}
	awaitIDs(t, h.js, "VERSIVE", sent...)
	thaw := freeze(t, broker)
	for i := range 20 {
		sent = append(sent, e.send(t, fmt.Sprintf("msg_1_%d", i)))
	}
	embeddedtest.Await(t, "the edge reports the link", func() bool {
		return strings.Contains(e.log.String(), "link to the hub is down") && strings.HasSuffix(e.metric("versive_ingress_forward_connected"), " 0\n")
	})
	if readyz(e.settings) != 200 {
		t.Error("the edge is not ready while the hub is frozen")
	}
	thaw()
	awaitIDs(t, h.js, "VERSIVE", sent...)
}

// Each reason why the link is down is logged once, also if they alternate, as those of the
// servers of a hub do. The end of an edge, with the link up, is no error.
func TestForwardLogsReasonsOnce(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h, func(s *config.Settings) { s.ForwardURL += ",nats://" + embeddedtest.FreeAddress(t) })
	id := e.send(t, "msg_0")
	awaitIDs(t, h.js, "VERSIVE", id)
	e.link.sever()
	reasons := func() (logged []string) {
		for line := range strings.Lines(e.log.String()) {
			if _, reason, found := strings.Cut(line, "link to the hub is down"); found {
				logged = append(logged, reason)
			}
		}
		return logged
	}
	for _, reason := range []string{"connection refused", "does not answer as a NATS server"} {
		embeddedtest.Await(t, reason, func() bool { return strings.Contains(strings.Join(reasons(), ""), reason) })
	}
	attempts := e.link.attempts.Load()
	embeddedtest.Await(t, "more attempts", func() bool { return e.link.attempts.Load() >= attempts+5 })
	logged := reasons()
	if slices.Sort(logged); len(slices.Compact(logged)) < len(reasons()) {
		t.Errorf("a reason is repeated: %q", reasons())
	}

	e.link.restore()
	embeddedtest.Await(t, "the link is up", func() bool { return strings.HasSuffix(e.metric("versive_ingress_forward_connected"), " 1\n") })
	before := len(e.log.String())
	e.Stop()
	if log := e.log.String()[before:]; strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("the end is an error:\n%s", log)
	}
}

// What an edge stores after it was restored from an older copy of its data is forwarded,
// and so is what follows a position after the end of the stream.
func TestForwardRestoredEdge(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h)
	var sent []string
	more := func(n int) {
		for range n {
			sent = append(sent, e.send(t, fmt.Sprintf("msg_%d", len(sent))))
		}
		awaitIDs(t, h.js, "VERSIVE", sent...)
		embeddedtest.Await(t, "the position is saved", func() bool { return e.pending(t) == 0 })
	}
	restart := func(between func()) {
		e.Stop()
		between()
		e = runEdge(t, e.settings, e.link)
	}
	more(10)
	older := t.TempDir()
	restart(func() {
		if err := os.CopyFS(older, os.DirFS(e.settings.DataDir)); err != nil {
			t.Fatal(err)
		}
	})
	more(10)
	restart(func() { e.settings.DataDir = older })
	more(10)

	// The position is that of a newer stream.
	if _, err := e.js.ResetConsumerToSequence(t.Context(), "VERSIVE", forward.Consumer, 1000); err != nil {
		t.Fatal(err)
	}
	e.link.sever()
	restart(func() {})
	e.link.restore()
	more(10)

	// Without a position, everything is forwarded again.
	restart(func() {})
	if err := e.js.DeleteConsumer(t.Context(), "VERSIVE", forward.Consumer); err != nil {
		t.Fatal(err)
	}
	more(10)
	if n := len(slices.Compact(slices.Sorted(slices.Values(sent)))); n != 50 {
		t.Errorf("%d events", n)
	}
}
