package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

// A tombstone has the copy's subject, holds nothing of the interview but ids,
// and has an id and a type of its own.
func TestTombstone(t *testing.T) {
	for _, test := range []struct {
		kind    schema.Kind
		subject string
		id      string
		header  map[string][]string
	}{
		{
			schema.KindEvent, "versive.interview.completed.s%2E1.i%2F1.msg_1", "erased:msg_1:7",
			map[string][]string{
				"Ingress-Erased": {"true"},
				"ce-specversion": {"1.0"},
				"ce-id":          {"erased:msg_1:7"},
				"ce-type":        {"versive-ingress.interview.erased"},
				"ce-source":      {"https://getversive.com/studies/s.1"},
				"ce-subject":     {"i/1"},
			},
		},
		{schema.KindQuarantine, "versive-quarantine.msg_1", "erased:msg_1:7", map[string][]string{"Ingress-Erased": {"true"}}},
		{schema.KindDead, "versive-dead.reports.msg_1", "erased:msg_1:7", map[string][]string{"Ingress-Erased": {"true"}}},
	} {
		m, err := schema.Tombstone(test.kind, test.subject, 7)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject("versive") != test.subject || m.ID != test.id || m.Kind != test.kind || len(m.Data) != 0 {
			t.Errorf("got %+v under %s", m, m.Subject("versive"))
		}
		if diff := cmp.Diff(test.header, m.Header); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.subject, diff)
		}
		if !schema.IsTombstone(m.Header) {
			t.Errorf("%s: not recognized", test.subject)
		}
		if _, err := schema.Decode(m.Header, m.Data); err == nil {
			t.Errorf("%s: decoded as an event", test.subject)
		}
	}
	if _, err := schema.Tombstone(schema.KindEvent, "versive.short.msg_1", 1); err == nil {
		t.Error("a subject that is not that of an event is accepted")
	}
}

// A dead letter is the event with the reason, and without the headers that the
// broker obeys.
func TestDeadLetter(t *testing.T) {
	event := normalize(t, body("", "", ""))
	stored := map[string][]string{"Nats-Msg-Id": {event.ID}, "Nats-Expected-Last-Subject-Sequence": {"0"}}
	for name, values := range event.Header {
		stored[name] = values
	}
	letter := schema.DeadLetter(schema.Dead{
		Consumer: "a.b", Reason: "no such study:\r\n" + strings.Repeat("\u00e4", 600), ID: event.ID, Subject: event.Subject("versive"), Sequence: 7, Deliveries: 3,
	}, stored, event.Data)

	if want := "versive-dead.a%2Eb." + schema.Escape(event.ID); letter.Subject("versive") != want {
		t.Errorf("subject is %s, want %s", letter.Subject("versive"), want)
	}
	decoded, err := schema.Decode(letter.Header, letter.Data)
	if err != nil || decoded.ID != event.ID || decoded.InterviewID != "i" {
		t.Errorf("got %+v, %v", decoded, err)
	}
	if got := schema.DecodeReason(letter.Header); !strings.HasPrefix(got, "no such study:\r\n\u00e4") || len(got) > 1024 {
		t.Errorf("reason is %q", got)
	}
	for name, values := range letter.Header {
		if strings.HasPrefix(name, "Nats-") || strings.ContainsAny(values[0], "\r\n") {
			t.Errorf("header %s: %q", name, values)
		}
	}
	for name, want := range map[string]string{
		schema.HeaderDeadSubject: event.Subject("versive"), schema.HeaderDeadSequence: "7", schema.HeaderDeadDeliveries: "3",
	} {
		if got := letter.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	if len(stored) != len(event.Header)+2 {
		t.Error("the event's own header was changed")
	}
}

// The subject of a body that cannot be normalized can often be guessed.
func TestGuessSubject(t *testing.T) {
	for _, test := range []struct {
		body string
		want string // the subject, or "" if it cannot be guessed
	}{
		{`{"event_type":"interview.started","interview":{"id":"i.1"},"study":{"id":"s"}}`, "versive.interview.started.s.i%2E1.msg_1"},
		{`{"study":{"id":"s","mode":7},"interview":{"id":"i","transcript":[]},"event_type":"interview.completed"}`, "versive.interview.completed.s.i.msg_1"},
		{`{"event_type":"interview.started","interview":{"id":"i"}}`, "versive.interview.started.%.i.msg_1"},
		{`{"event_type":"study.created","study":{"id":"s"}}`, "versive.study.created.s.%.msg_1"},
		{`{"event_type":"study.created","study":{"id":"s"},"interview":{"id":null}}`, ""},
		{`{"event_type":"study.created","study":{}}`, ""},
		{`{"event_type":"interview.completed","study":{"id":"s"}}`, ""},
		{`{"event_type":7,"interview":{"id":"i"},"study":{"id":"s"}}`, ""},
		{`{"event_type":"interview.started","interview":{"id":7},"study":{"id":"s"}}`, ""},
		{`{"event_type":"interview.started","interview":{"id":"` + strings.Repeat("x", 257) + `"},"study":{"id":"s"}}`, ""},
		{`{"event_type":"started","interview":{"id":"i"},"study":{"id":"s"}}`, ""},
		{`{"event_type":"interview.*","interview":{"id":"i"},"study":{"id":"s"}}`, ""},
		{`{"event_type":"interview.started","interview":{"id":"i","id":"j"},"study":{"id":"s"}}`, ""},
		{`{"event_type":"interview.started","interview":{"id":"i"},"study":{"id":"s"}`, ""},
		{`["interview.started"]`, ""},
	} {
		s, ok := schema.GuessSubject("msg_1", []byte(test.body))
		s.Prefix = "versive"
		if ok != (test.want != "") || ok && s.String() != test.want {
			t.Errorf("%s: got %s, %v; want %q", test.body, s, ok, test.want)
		}
	}
}
