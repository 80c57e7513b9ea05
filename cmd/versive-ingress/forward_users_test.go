package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// diagnose runs doctor with the settings of an edge.
func diagnose(t testing.TB, s config.Settings, args ...string) (report string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "versive-ingress", append([]string{"doctor"}, args...)...)
	cmd.Env = append(cmd.Environ(), environment(s)...)
	text, err := cmd.CombinedOutput()
	return string(text), err == nil
}

// With the users that are shipped, for the hub and for an edge that forwards, events,
// webhooks that are not understood, dead letters and erasures are forwarded, expired and
// erased, and nothing is denied.
func TestForwardWithShippedUsers(t *testing.T) {
	t.Parallel()
	text := readText(t, filepath.Join("..", "..", "deploy", "nats", "hub.conf"))
	seeds := make(map[string]string)
	for _, variable := range []string{"$HUB_EDGE_A_NKEY", "$HUB_EDGE_B_NKEY", "$HUB_OPERATOR_NKEY"} {
		if !strings.Contains(text, "nkey: "+variable) {
			t.Fatalf("hub.conf has no user %s", variable)
		}
		var public string
		public, seeds[variable] = newNKey(t)
		text = strings.ReplaceAll(text, variable, public)
	}
	h := &hub{cfg: embedded.Config{Dir: t.TempDir(), Listen: embeddedtest.FreeAddress(t), ConfigFile: writeFile(t, "hub.conf", text), MaxPayload: 9 << 20}}
	h.Broker = embeddedtest.StartBroker(t, h.cfg)
	_, h.js = users{}.connect(t, h.URL(), seeds["$HUB_OPERATOR_NKEY"])

	u := shippedUsers(t)
	own := readText(t, u.config)
	uncommented := regexp.MustCompile(`(?m)^( *)# ("\$JS|"versive-dead)`).ReplaceAllString(own, "$1$2")
	if uncommented == own {
		t.Fatal("users.conf has no permissions for INGRESS_FORWARD_URL")
	}
	s := edgeSettings(t, newProxy(t, h.cfg.Listen, nil))
	s.ForwardNKey = seeds["$HUB_EDGE_A_NKEY"]
	s.NATSConfig, s.NATSNKey = writeFile(t, "users.conf", uncommented), u.ingress
	s.MaxAge, s.DedupeWindow = 5*time.Second, 5*time.Second
	e := &edge{system: run(t, s)}
	_, e.js = u.connect(t, e.BrokerURL(), u.operator)
	e.send(t, "msg_1")
	e.send(t, "msg_2")
	if a := e.post(t, "msg_q", []byte(`{"event_type":"interview.imagined"}`)); a.Status != 202 {
		t.Errorf("%v", a)
	}
	// A dead letter is forwarded; its request is not.
	bury(t, e.js, "reports", "msg_1")
	request := schema.Requeue("reports", "msg_1", 1)
	if _, err := e.js.PublishMsg(t.Context(), &nats.Msg{Subject: request.Subject("versive"), Header: request.Header}); err != nil {
		t.Fatal(err)
	}
	bury(t, e.js, "reports", "msg_2")
	awaitIDs(t, h.js, "VERSIVE", "msg_1", "msg_2")
	awaitIDs(t, h.js, "VERSIVE_QUARANTINE", "msg_q")
	awaitIDs(t, h.js, "VERSIVE_DEAD", "msg_1", "msg_2")
	// They can be requeued only at the edge.
	at := withBroker(newSettings(t), h.cfg.Listen)
	at.NATSNKey = seeds["$HUB_OPERATOR_NKEY"]
	if out, err := runCommand(t, "versive-ingress", at, "deadletters", "requeue", "--all"); err == nil || !strings.Contains(out, "stays reports msg_1: it was given up at an edge") {
		t.Errorf("requeue at the hub: %v, %s", err, out)
	}
	if report, _ := diagnose(t, e.settings); strings.Contains(report, "hub_") || strings.Contains(report, forward.Consumer) || !strings.Contains(report, "ok       hub") {
		t.Errorf("doctor:\n%s", report)
	}

	// An erasure at the hub comes down, and what is old is removed.
	must(t, at, "erase", "--interview", "interview_msg_1", "--yes")
	embeddedtest.Await(t, "the copies are erased", func() bool {
		return !strings.Contains(strings.Join(append(live(t, e.js), live(t, h.js)...), " "), "msg_1")
	})
	embeddedtest.Await(t, "all is expired at the edge", func() bool {
		return len(headersIn(t, e.js, "VERSIVE"))+len(headersIn(t, e.js, "VERSIVE_QUARANTINE"))+len(headersIn(t, e.js, "VERSIVE_DEAD")) == 0
	})
	if strings.Contains(e.log.String(), "ermissions") {
		t.Errorf("something is denied:\n%s", regexp.MustCompile(`(?im)^.*permissions.*$`).FindAllString(e.log.String(), 5))
	}
}

// doctor reports the state of the link and the backlog, and drift at the hub. It tells an
// edge that can be taken away.
func TestDoctorHub(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h)
	id := e.send(t, "msg_1")
	awaitIDs(t, h.js, "VERSIVE", id)
	has := func(want ...string) func() bool {
		return func() bool {
			report, _ := diagnose(t, e.settings, "--drained")
			for _, text := range want {
				if !strings.Contains(report, text) {
					return false
				}
			}
			return true
		}
	}
	embeddedtest.Await(t, "the edge is drained", func() bool { _, ok := diagnose(t, e.settings, "--drained"); return ok })
	stream, err := h.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	edited := stream.CachedInfo().Config
	edited.MaxAge, edited.Duplicates, edited.MaxMsgSize = time.Hour, time.Hour, 1<<20
	if _, err := h.js.UpdateStream(t.Context(), edited); err != nil {
		t.Fatal(err)
	}
	embeddedtest.Await(t, "doctor reports the edited stream", has("hub_age", "hub_stream_window_limited", "hub_message_size"))
	edited.MaxMsgSize = -1
	if _, err := h.js.UpdateStream(t.Context(), edited); err != nil {
		t.Fatal(err)
	}

	// The probe's webhooks stay at the edge, and are gone from there.
	if report, _ := diagnose(t, e.settings, "--probe"); !strings.Contains(report, "ok       probe") {
		t.Errorf("doctor:\n%s", report)
	}
	e.post(t, "msg_q", []byte(`{"event_type":"interview.imagined"}`))
	awaitIDs(t, h.js, "VERSIVE_QUARANTINE", "msg_q")

	e.link.sever()
	e.send(t, "msg_2")
	embeddedtest.Await(t, "doctor reports the link and the backlog", has("hub_silent", "forward_pending", "waiting: 1 of VERSIVE, the oldest"))
	if report, _ := diagnose(t, e.settings); strings.Contains(report, "consumer rm") {
		t.Errorf("doctor:\n%s", report)
	}
}
