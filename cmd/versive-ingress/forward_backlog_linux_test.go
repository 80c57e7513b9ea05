package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

var forwardBacklog = flag.Int("forward.backlog", 400, "TestForwardBacklog lets so many events of 8 KiB wait for the hub, and logs how fast they are forwarded")

// launchHub starts a hub of processes: one, or a cluster of several.
func launchHub(t *testing.T, servers int) (*hub, []*exec.Cmd) {
	t.Helper()
	var routes []string
	for range servers {
		routes = append(routes, embeddedtest.FreeAddress(t))
	}
	h := &hub{}
	var processes []*exec.Cmd
	for i, route := range routes {
		h.cfg = embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t)}
		if servers > 1 { // a client that learnt the other servers' addresses would go around the link
			h.cfg.ConfigFile = writeFile(t, "nats.conf", fmt.Sprintf(`
				server_name: hub-%d
				cluster { name: %q, listen: %q, no_advertise: true, routes: ["nats://%s"] }`, i, routes[0], route, strings.Join(routes, `", "nats://`)))
		}
		processes = append(processes, launchBroker(t, h.cfg))
	}
	h.js = embeddedtest.Connect(t, "nats://"+h.cfg.Listen, nats.Timeout(2*time.Second))
	return h, processes
}

// processorTime returns how long a process has used a processor.
func processorTime(t testing.TB, cmd *exec.Cmd) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(text)) // from the third on
	user, err := strconv.ParseUint(fields[11], 10, 64)
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// storeWaiting stores n events of 8 KiB at an edge.
func storeWaiting(t testing.TB, e *edge, n int) {
	t.Helper()
	text := strings.Replace(string(sample), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", 1600)+`"`, 1)
	cfg := e.settings.Streams()
	cfg.URL, cfg.KeepStreams = "nats://"+e.settings.NATSListen, true
	p, err := publish.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := 0; i < n; {
		var list []schema.Message
		for ; i < n && len(list) < publish.MaxStoreLen; i++ {
			m, err := schema.Normalize(fmt.Sprint("msg_", i), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, m)
		}
		if _, err := p.Store(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
}

// A backlog is forwarded quickly and in bounded memory, and webhooks are accepted
// meanwhile; to one server, and to a cluster with three replicas. An edge with a backlog
// starts quickly.
func TestForwardBacklog(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			h, servers := launchHub(t, replicas)
			link := newProxy(t, h.cfg.Listen, nil)
			s := edgeSettings(t, link)
			s.ForwardReplicas, s.MaxStore = replicas, 20<<30
			link.sever()
			process, log := launch(t, "versive-ingress", s)
			awaitReady(t, s)
			e := &edge{&system{settings: s, url: "http://" + s.Listen + s.Path, log: log}, link, embeddedtest.Connect(t, "nats://"+s.NATSListen)}
			began := time.Now()
			storeWaiting(t, e, *forwardBacklog)
			embeddedtest.Await(t, "all is pending", func() bool { return e.pending(t) == *forwardBacklog })
			t.Logf("%d events stored in %v", *forwardBacklog, time.Since(began))

			terminate(t, process)
			began = time.Now()
			process, _ = launch(t, "versive-ingress", s)
			for readyz(s) != http.StatusOK {
				time.Sleep(5 * time.Millisecond)
			}
			started, usedAtStart := time.Since(began), processorTime(t, process)
			t.Logf("ready %v after the start (processor: %v), with %d MiB", started, usedAtStart, peakMemory(t, process.Process.Pid)>>20)

			link.restore()
			embeddedtest.Await(t, "the link is up", func() bool { return strings.HasSuffix(e.metric("versive_ingress_forward_connected"), " 1\n") })
			began = time.Now()
			var slowest time.Duration
			for stored := uint64(0); stored < uint64(*forwardBacklog); time.Sleep(5 * time.Millisecond) {
				posted := time.Now()
				e.send(t, fmt.Sprint("msg_new_", posted.UnixNano()))
				slowest = max(slowest, time.Since(posted))
				if stream, err := h.js.Stream(t.Context(), "VERSIVE"); err == nil {
					stored = stream.CachedInfo().State.Msgs
				}
			}
			took := time.Since(began)
			t.Logf("forwarded in %v: %.0f events/s; slowest webhook %v", took, float64(*forwardBacklog)/took.Seconds(), slowest)
			for i, p := range append(servers, process) { // the edge is the last
				t.Logf("process %d: at most %d MiB; processor: %v", i, peakMemory(t, p.Process.Pid)>>20, processorTime(t, p))
			}
			embeddedtest.Await(t, "nothing is pending", func() bool { return e.pending(t) == 0 })
			if *forwardBacklog <= 10_000 && !e.inOrder(t, h) {
				t.Error("the hub does not have each event once, in order")
			}
		})
	}
}
