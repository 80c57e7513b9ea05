package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A hub is the broker that edges forward to.
type hub struct {
	*embedded.Broker
	cfg embedded.Config
	js  jetstream.JetStream
}

func startHub(t testing.TB) *hub {
	t.Helper()
	h := &hub{cfg: embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t), MaxPayload: 9 << 20}}
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	h.js = embeddedtest.Connect(t, h.URL(), nats.Timeout(2*time.Second))
	return h
}

// An edge is an ingress that forwards to a hub through a link.
type edge struct {
	*system
	link *proxy
	js   jetstream.JetStream
}

// edgeSettings returns the settings of an edge behind a link.
func edgeSettings(t testing.TB, link *proxy) config.Settings {
	s := newSettings(t)
	s.ForwardURL = "nats://" + link.address()
	return s
}

func startEdge(t testing.TB, h *hub, change ...func(*config.Settings)) *edge {
	t.Helper()
	link := newProxy(t, h.cfg.Listen, nil)
	s := edgeSettings(t, link)
	for _, f := range change {
		f(&s)
	}
	return runEdge(t, s, link)
}

func runEdge(t testing.TB, s config.Settings, link *proxy) *edge {
	t.Helper()
	sys := run(t, s)
	return &edge{sys, link, embeddedtest.Connect(t, sys.BrokerURL())}
}

// send posts an event that must be stored, and returns its id.
func (e *edge) send(t testing.TB, id string) string {
	t.Helper()
	if a := e.post(t, id, interview("interview_"+id)); a.Status != 200 {
		t.Fatalf("%s: %v", id, a)
	}
	return id
}

// pending returns how many messages wait to be forwarded, by the metrics.
func (e *edge) pending(t testing.TB) (n int) {
	t.Helper()
	_, text := get("http://" + e.settings.AdminListen + "/metrics")
	for line := range strings.Lines(text) {
		var value float64
		if rest, ok := strings.CutPrefix(line, "versive_ingress_forward_pending_events{"); ok {
			fmt.Sscan(rest[strings.LastIndexByte(rest, ' '):], &value)
			n += int(value)
		}
	}
	return n
}

// headersIn returns the messages of a stream without their data, in order; nil if there is
// no stream.
func headersIn(t testing.TB, js jetstream.JetStream, stream string) (list []subscribe.Message) {
	t.Helper()
	kind := map[string]schema.Kind{"VERSIVE_QUARANTINE": schema.KindQuarantine, "VERSIVE_DEAD": schema.KindDead}[stream]
	for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: kind, HeadersOnly: true}) {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// idsIn returns the ids of the messages of a stream, in order.
func idsIn(t testing.TB, js jetstream.JetStream, stream string) (list []string) {
	t.Helper()
	for _, m := range headersIn(t, js, stream) {
		list = append(list, m.ID)
	}
	return list
}

// awaitIDs waits until a stream has these messages, in this order.
func awaitIDs(t testing.TB, js jetstream.JetStream, stream string, want ...string) {
	t.Helper()
	var have []string
	defer func() {
		if t.Failed() {
			t.Logf("stream %s has %v, want %v", stream, have, want)
		}
	}()
	embeddedtest.Await(t, fmt.Sprintf("%d messages in %s", len(want), stream), func() bool {
		have = idsIn(t, js, stream)
		return slices.Equal(have, want)
	})
}

// An edge starts, is ready and accepts webhooks without its hub. What it has stored is
// forwarded when the hub is there: in order, once, with the headers and data of the edge.
func TestForward(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h, func(s *config.Settings) { s.Secrets[0] = "acme:" + s.Secrets[0] })
	e.link.sever()
	var sent []string
	for i := range 5 {
		sent = append(sent, e.send(t, fmt.Sprint("msg_", i)))
	}
	embeddedtest.Await(t, "five pending", func() bool { return e.pending(t) == 5 })
	if readyz(e.settings) != 200 {
		t.Error("the edge is not ready without the hub")
	}
	e.link.restore()
	awaitIDs(t, h.js, "VERSIVE", sent...)
	sent = append(sent, e.send(t, "msg_5"))
	e.send(t, "msg_5")
	if a := e.post(t, "msg_q", []byte(`{"event_type":"interview.imagined"}`)); a.Status != 202 {
		t.Errorf("%v", a)
	}
	awaitIDs(t, h.js, "VERSIVE", sent...)
	awaitIDs(t, h.js, "VERSIVE_QUARANTINE", "msg_q")
	embeddedtest.Await(t, "nothing pending", func() bool { return e.pending(t) == 0 })

	if q := readAll(t, h.js, "VERSIVE_QUARANTINE")[0]; q.Headers().Get("ce-organization") != "acme" {
		t.Errorf("the quarantined webhook has the header %v", q.Headers())
	}
	here, there := readAll(t, e.js, "VERSIVE"), readAll(t, h.js, "VERSIVE")
	for i := range there {
		if got := there[i].Headers().Get("ce-organization"); got != "acme" {
			t.Errorf("the hub has organization %q", got)
		}
		for name, values := range here[i].Headers() {
			if !strings.HasPrefix(name, "Nats-") && !slices.Equal(there[i].Headers()[name], values) {
				t.Errorf("header %s is %q at the hub, and %q at the edge", name, there[i].Headers()[name], values)
			}
		}
		if string(here[i].Data()) != string(there[i].Data()) || here[i].Subject() != there[i].Subject() {
			t.Errorf("message %d differs at the hub", i)
		}
	}
}
