package ingest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

// bodyRows are requests with bodies that are hard to parse. If signed, they are
// kept byte for byte; if forged, they are not parsed.
func bodyRows(t testing.TB) []row {
	const malformed, unsupported, invalid = "202 quarantined malformed", "202 quarantined unsupported_type", "202 quarantined invalid"
	var rows []row
	for i, body := range []struct{ name, body, want string }{
		{"empty", "", malformed},
		{"white space", " \r\n\t ", malformed},
		{"not JSON", "event_type=interview.completed", malformed},
		{"an array", "[" + event("") + "]", malformed},
		{"a string", `"interview.completed"`, malformed},
		{"null", "null", malformed},
		{"two objects", event("") + event(""), malformed},
		{"data after the object", event("") + "x", malformed},
		{"NUL after the object", event("") + "\x00", malformed},
		{"cut in the middle", event("")[:40], malformed},
		{"a byte order mark", "\ufeff" + event(""), malformed},
		{"UTF-16", "\xff\xfe{\x00}\x00", malformed},
		{"invalid UTF-8 in a text", event(",\"transcript\":\"\xff\""), malformed},
		{"an overlong slash", event(",\"transcript\":\"\xc0\xaf\""), malformed},
		{"NUL in a text", event(",\"transcript\":\"\x00\""), malformed},
		{"a line break in a text", event(",\"transcript\":\"\n\""), malformed},
		{"duplicate names", event(`,"title":"a","title":"b"`), malformed},
		{"duplicate names, one escaped", event(`,"title":"a","t\u0069tle":"b"`), malformed},
		{"duplicate unknown names", event(`,"metadata":{"x":1,"x":2}`), malformed},
		{"duplicate ids", event(`,"id":"interview_2"`), malformed},
		{"deep nesting", strings.Repeat("[", 100_000), malformed},
		{"deep nesting, closed", event(`,"x":` + strings.Repeat(`{"x":`, 20_000) + "1" + strings.Repeat("}", 20_000)), malformed},
		{"deep nesting in the metadata", event(`,"metadata":` + strings.Repeat(`{"x":`, 11_000) + "{}" + strings.Repeat("}", 11_000)), malformed},
		{"a number with a leading zero", event(`,"x":01`), malformed},
		{"infinity", event(`,"active_time":Infinity`), malformed},
		{"a comment", event("/**/"), malformed},
		{"a trailing comma", event(`,"x":[1,]`), malformed},
		{"an unknown type", strings.Replace(event(""), "completed", "created", 1), unsupported},
		{"a type in capitals", strings.Replace(event(""), "completed", "Completed", 1), unsupported},
		{"a type with wildcards", strings.Replace(event(""), "interview.completed", "interview.>", 1), unsupported},
		{"no type", `{"test": 2432232314}`, unsupported},
		{"an empty object", "{}", unsupported},
		{"a type that is an object", `{"event_type":{}}`, invalid},
		{"an interview that is an array", `{"event_type":"interview.completed","interview":[],"study":{"id":"s"}}`, invalid},
		{"no interview", `{"event_type":"interview.completed","study":{"id":"s"}}`, invalid},
		{"an empty study id", `{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":""}}`, invalid},
		{"a study id that is a number", `{"event_type":"interview.completed","interview":{"id":"i"},"study":{"id":1}}`, invalid},
		{"a number for a text", event(`,"transcript":1`), invalid},
		{"a huge number for a text", event(`,"transcript":1` + strings.Repeat("0", 1000)), invalid},
		{"a huge number for a flag", event(`,"is_mock":1e999999`), invalid},
		{"an invalid time", event(`,"ended_at":"yesterday"`), invalid},

		{"a huge number in an unknown member", event(`,"x":1` + strings.Repeat("0", 10_000) + "e999999"), "200 stored"},
		{"a huge number for a number", event(`,"active_time":1e999999`), "200 stored"},
		{"half a surrogate pair", event(`,"transcript":"\ud800"`), "200 stored"},
		{"an escaped NUL", event(`,"transcript":"\u0000"`), "200 stored"},
		{"an id with NUL", strings.ReplaceAll(event(""), "interview_1", `\u0000`), "200 stored"},
		{"an id of wildcards", strings.ReplaceAll(event(""), "study_1", `*.>`), "200 stored"},
		{"an id with line breaks", strings.ReplaceAll(event(""), "study_1", `\r\nNats-Rollup: all`), "200 stored"},
		{"markup", event(`,"title":"<script>\u003c/script>"`), "200 stored"},
	} {
		r := signed(t, "msg_body_"+itoa(i), body.body)
		forged := r.with("Svix-Signature", sign(t, otherSecret, r.id, now, body.body))
		rows = append(rows,
			row{"body: " + body.name, r, body.want},
			row{"forged body: " + body.name, forged, "401 unauthorized signature"})
	}
	return rows
}

// The quarantine keeps the reason and the verified headers with the body, under
// names that mean nothing to the broker.
func TestQuarantinedHeaders(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	for _, test := range []struct {
		name, reason, description, body string
	}{
		{"malformed", "malformed", "body ends in the middle of the JSON object (byte 1)", "{"},
		{"unsupported", "unsupported_type", "/event_type is not a known event type", `{"event_type":"interview.archived"}`},
		{"invalid", "invalid", "/study/id is required", `{"event_type":"interview.completed","interview":{"id":"i"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			contentType := "application/json; name=\"\u00fc%\"" + strings.Repeat("x", 300)
			request := signedBy(t, "Webhook", secret, "msg_"+test.name, now, test.body).
				with("Content-Type", contentType).
				plus("Svix-Id: msg_stray", "Authorization: secret", "Nats-Rollup: all")
			m := row{"", request, "202 quarantined " + test.reason}.check(t, r, s)
			if m == nil {
				return
			}
			got := map[string]string{}
			for name, values := range m.Header {
				if !strings.HasPrefix(name, "Nats-") { // set by the publisher
					got[name] = strings.Join(values, ", ")
				}
			}
			want := map[string]string{
				schema.HeaderReason:              test.reason,
				schema.HeaderDescription:         test.description,
				"Ingress-Http-Webhook-Id":        request.id,
				"Ingress-Http-Webhook-Timestamp": unix(now),
				"Ingress-Http-Webhook-Signature": sign(t, secret, request.id, now, test.body),
				"Ingress-Http-Content-Type":      "application/json;%20name=%22%C3%BC%25%22" + strings.Repeat("x", 256-len("application/json; name=\"\u00fc%\"")),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

// No header of a request that is a command to the broker reaches the message.
func TestNatsHeaders(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	commands := []string{
		"Nats-Msg-Id: planted", "Nats-Expected-Stream: planted", "Nats-Expected-Last-Sequence: 7777",
		"Nats-Expected-Last-Subject-Sequence: 7777", "Nats-Expected-Last-Subject-Sequence-Subject: planted",
		"Nats-Expected-Last-Msg-Id: planted", "Nats-Rollup: all", "Nats-TTL: 1s", "Nats-Stream: planted", "Nats-Sequence: 7777",
		"Nats-Batch-Id: planted", "Nats-Batch-Sequence: 1", "Nats-Batch-Commit: 1", "Nats-Incr: +1", "Nats-Schedule: @at",
		"Nats-Marker-Reason: Purge", "Nats-Required-Api-Level: 99", "Nats-Subject: planted", "Ingress-Erased: planted",
		"Ingress-Reason: planted", "Ingress-Http-Svix-Id: planted", "Ce-Id: planted", "ce-type: planted", "Traceparent: planted",
	}
	// Messages that a rollup would delete.
	row{"", signed(t, "msg_0", event("")), "200 stored"}.check(t, r, s)
	row{"", signed(t, "msg_0", "{"), "202 quarantined malformed"}.check(t, r, s)
	for _, test := range []struct{ body, want, resent string }{
		{event(""), "200 stored", "200 duplicate"},
		{"{", "202 quarantined malformed", "202 quarantined malformed"},
	} {
		request := signed(t, "msg_1", test.body).plus(commands...)
		m := row{"", request, test.want}.check(t, r, s)
		if m == nil {
			continue
		}
		for name, values := range m.Header {
			switch name {
			case "Nats-Rollup", "Nats-TTL", "Nats-Incr", "Nats-Schedule", "Nats-Marker-Reason", "Ingress-Erased":
				t.Errorf("stored with %s: %q", name, values)
			}
			for _, value := range values {
				if value == "planted" || value == "7777" {
					t.Errorf("stored with %s: %q", name, values)
				}
			}
		}
		// A resend is recognized by the verified id, even if it has another Nats-Msg-Id.
		stored := s.state(t)
		if got, _ := r.post(t, request.with("Nats-Msg-Id", "other")); got != test.resent {
			t.Errorf("the resend got %q, want %q", got, test.resent)
		}
		if got := s.state(t); got != stored {
			t.Errorf("the streams hold %+v after the resend, want %+v", got, stored)
		}
	}
}
