package main

import (
	"strings"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// The life of an event of a type that is unknown today: kept raw and answered
// 202; understood by a newer version, and requeued; read once downstream; gone
// from the quarantine; and a resend is a duplicate.
func TestLifeInQuarantine(t *testing.T) {
	t.Parallel()
	newer := withEventTypes(t)
	for name, place := range map[string]func(*testing.T, config.Settings) config.Settings{
		"embedded": func(_ *testing.T, s config.Settings) config.Settings { return s },
		"external": func(t *testing.T, s config.Settings) config.Settings {
			broker := embeddedtest.StartBroker(t, embedded.Config{Listen: s.NATSListen})
			return withBroker(s, strings.TrimPrefix(broker.URL(), "nats://"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			organization := ""
			if name == "embedded" {
				organization = "acme"
				s.Secrets[0] = "acme:" + s.Secrets[0]
			}
			s = place(t, s)
			today := run(t, s)
			body := []byte(`{"event_type":"interview.started","interview":{"id":"i","started_at":"2026-01-02T03:04:05+01:00"},"study":{"id":"s"}}`)
			for _, id := range []string{"msg_started", "msg_again", "msg_started"} {
				if a := today.post(t, id, body); a.Status != 202 || a.Reason != "unsupported_type" {
					t.Fatalf("today: %v", a)
				}
			}
			awaitDepth(t, s, "2")
			if out, err := runCommand(t, "versive-ingress", s, "quarantine", "requeue", "--all"); err == nil || strings.Count(out, "stays") != 2 {
				t.Errorf("requeued today: %v, %s", err, out)
			}
			today.Stop()

			launch(t, newer, s)
			awaitReady(t, s)
			tomorrow := &system{settings: s, url: s.WebhookURL()}
			// As if a requeue had ended between the event and the quarantine.
			if a := tomorrow.post(t, "msg_again", body); a.Status != 200 || a.Outcome != "stored" {
				t.Errorf("sent again to a newer version: %v", a)
			}
			awaitDepth(t, s, "2")
			js := embeddedtest.Connect(t, broker.URL(s))
			for _, step := range []struct{ flag, want string }{
				{"--dry-run", "would be stored msg_started\nwould be stored msg_again\n"},
				{"--reason=unsupported_type", "stored VERSIVE 2 msg_started\nduplicate VERSIVE 1 msg_again\n"},
				{"--all", "there is nothing to requeue\n"},
			} {
				if out, err := runCommand(t, newer, s, "quarantine", "requeue", "--all", step.flag); err != nil || out != step.want {
					t.Errorf("requeue %s: %v\n%swant\n%s", step.flag, err, out, step.want)
				}
			}
			if a := tomorrow.post(t, "msg_started", body); a.Outcome != "duplicate" || a.Sequence != 2 {
				t.Errorf("a resend: %v", a)
			}

			if got := holdings(t, js, schema.KindEvent); got != "msg_again msg_started" {
				t.Errorf("downstream reads %s", got)
			}
			if got := holdings(t, js, schema.KindQuarantine); got != "msg_started* msg_again*" {
				t.Errorf("the quarantine holds %s, want tombstones", got)
			}
			for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{First: 2}) {
				if err != nil {
					t.Fatal(err)
				}
				if m.Organization != organization {
					t.Errorf("requeued for organization %q, want %q", m.Organization, organization)
				}
				if m.Subject != "versive.interview.started.s.i.msg_started" || m.Header.Get("ce-type") != "com.getversive.interview.started" || !strings.Contains(string(m.Data), `"2026-01-02T02:04:05Z"`) {
					t.Errorf("got %s %v %s", m.Subject, m.Header, m.Data)
				}
			}
			awaitDepth(t, s, "0")
		})
	}
}

func awaitDepth(t *testing.T, s config.Settings, depth string) {
	t.Helper()
	embeddedtest.Await(t, "quarantine's depth "+depth, func() bool {
		_, text := get("http://" + s.AdminListen + "/metrics")
		return strings.Contains(text, "\nversive_ingress_quarantine_events "+depth+"\n")
	})
}
