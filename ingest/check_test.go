package ingest_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// unauthorizedBody is the body of every 401.
const unauthorizedBody = `{"type":"about:blank","title":"Unauthorized","status":401,"detail":"the request is not signed, or not by a sender that is known here"}`

// statuses has the status of each outcome, as in the HTTP contract.
var statuses = map[string]int{
	"stored": 200, "duplicate": 200, "quarantined": 202,
	"bad_request": 400, "unauthorized": 401, "not_found": 404, "method_not_allowed": 405,
	"too_large": 413, "unsupported_encoding": 415, "unavailable": 503,
}

// levels has the log level of each outcome.
var levels = map[string]string{
	"stored": "INFO", "duplicate": "INFO", "quarantined": "WARN",
	"bad_request": "INFO", "unauthorized": "WARN", "not_found": "INFO", "method_not_allowed": "INFO",
	"too_large": "WARN", "unsupported_encoding": "INFO", "unavailable": "ERROR",
}

// answerBody has the members of all answers.
type answerBody struct {
	Outcome  string `json:"outcome"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Reason   string `json:"reason"`

	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// post sends a request and checks that the answer, the log and the metrics agree.
// It returns the answer's status, outcome and reason as one string, the status
// alone if net/http itself answered, or "closed" if there was no answer. It must
// not be called concurrently.
func (r *harness) post(t testing.TB, request request) (string, answer) {
	t.Helper()
	const requests, durations = "versive_ingress_requests_total", "versive_ingress_request_duration_seconds"
	r.logs.take(t)
	counted, timed := r.metric(t, requests), r.metric(t, durations)
	a := exchange(t, r.address, request)
	lines, _ := r.logs.take(t)

	var line logLine
	switch len(lines) {
	case 0:
		if strings.Contains(a.header.Get("Content-Type"), "json") {
			t.Error("the handler answered without a log line")
		}
	case 1:
		line = lines[0]
		if a.status != 0 {
			checkAnswer(t, a, line, request)
		}
		key := strings.TrimSpace(line.Outcome + " " + line.Reason)
		if _, ok := counted[key]; !ok {
			t.Errorf("%s has no series of %q before the first request", requests, key)
		}
		counted[key]++
		timed[line.Outcome]++
	default:
		t.Fatalf("one request, %d log lines: %+v", len(lines), lines)
	}
	if diff := cmp.Diff(counted, r.metric(t, requests)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", requests, diff)
	}
	if diff := cmp.Diff(timed, r.metric(t, durations)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", durations, diff)
	}
	if n := r.inflight(t); n != 0 {
		t.Errorf("%v bytes are in flight after the answer", n)
	}
	return a.summary(line), a
}

func (a answer) summary(line logLine) string {
	if a.status == 0 {
		return "closed"
	}
	return strings.TrimSpace(strings.Join([]string{itoa(a.status), line.Outcome, line.Reason}, " "))
}

// checkAnswer compares an answer of the handler with the contract and the log.
func checkAnswer(t testing.TB, a answer, line logLine, r request) {
	t.Helper()
	if want := statuses[line.Outcome]; a.status != want {
		t.Errorf("status %d with outcome %q, want %d", a.status, line.Outcome, want)
	}
	if want := levels[line.Outcome]; line.Level != want {
		t.Errorf("outcome %q is logged as %s, want %s", line.Outcome, line.Level, want)
	}
	contentType := "application/problem+json"
	if a.status < 300 {
		contentType = "application/json"
	}
	if got := a.header.Get("Content-Type"); got != contentType {
		t.Errorf("content type %q, want %q", got, contentType)
	}
	if got, want := a.header.Get("Allow"), map[int]string{405: "POST"}[a.status]; got != want {
		t.Errorf("Allow is %q, want %q", got, want)
	}
	if got, want := a.header.Get("Retry-After"), map[int]string{503: "5"}[a.status]; got != want {
		t.Errorf("Retry-After is %q, want %q", got, want)
	}
	if a.status == 401 && a.body != unauthorizedBody {
		t.Errorf("a 401 reveals its reason: %s", a.body)
	}
	if strings.HasPrefix(r.line, "HEAD ") {
		return
	}

	var got answerBody
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("answer %q: %v", a.body, err)
	}
	want := answerBody{Type: "about:blank", Title: statusText[a.status], Status: a.status, Detail: got.Detail}
	switch line.Outcome {
	case "stored", "duplicate":
		want = answerBody{Outcome: line.Outcome, Stream: line.Stream, Sequence: line.Sequence}
	case "quarantined":
		want = answerBody{Outcome: line.Outcome, Reason: line.Reason, Detail: got.Detail}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if a.status > 299 && got.Detail == "" {
		t.Error("a rejection without a detail")
	}
	if a.status < 300 && (line.ID != r.id || line.Bytes != len(r.signed)) {
		t.Errorf("the log has id %q and %d bytes, want %q and %d", line.ID, line.Bytes, r.id, len(r.signed))
	}
}

// statusText is spelled out because it is part of the answers.
var statusText = map[int]string{
	400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
	413: "Request Entity Too Large", 415: "Unsupported Media Type", 503: "Service Unavailable",
}

// A row is a request and the expected result of post.
type row struct {
	name    string
	request request
	want    string
}

// check posts a row's request and compares the answer with the row, and the
// streams with the answer. It returns the message that was stored, or nil.
func (row row) check(t testing.TB, r *harness, s *store) *jetstream.RawStreamMsg {
	t.Helper()
	want := s.state(t)
	got, a := r.post(t, row.request)
	if got != row.want {
		t.Errorf("got %q, want %q\nanswer: %s", got, row.want, a.body)
	}
	var m *jetstream.RawStreamMsg
	switch {
	case strings.HasPrefix(got, "200 stored"):
		want.events++
		want.lastEvent++
		m = s.message(t, "VERSIVE", want.lastEvent)
		subject, err := schema.ParseSubject(m.Subject)
		if err != nil || subject.ID != row.request.id {
			t.Errorf("stored under %s (%v), want the id %q", m.Subject, err, row.request.id)
		}
		event, err := schema.Decode(m.Header, m.Data)
		if err != nil || event.ID != row.request.id {
			t.Errorf("decodes to the id %q (%v), want %q", event.ID, err, row.request.id)
		}
	case strings.HasPrefix(got, "202 quarantined"):
		want.quarantined++
		want.lastQuarantined++
		m = s.message(t, "VERSIVE_QUARANTINE", want.lastQuarantined)
		if string(m.Data) != row.request.signed {
			t.Errorf("the quarantined body is not what was sent: %q", m.Data)
		}
		if want := "versive-quarantine." + schema.Escape(row.request.id); m.Subject != want {
			t.Errorf("quarantined under %s, want %s", m.Subject, want)
		}
		if got, want := m.Header.Get(schema.HeaderReason), strings.Fields(row.want)[2]; got != want {
			t.Errorf("quarantined for %q, want %q", got, want)
		}
	}
	if m != nil && m.Header.Get(jetstream.MsgIDHeader) != row.request.id {
		t.Errorf("message id %q, want %q", m.Header.Get(jetstream.MsgIDHeader), row.request.id)
	}
	if got := s.state(t); got != want {
		t.Errorf("the streams hold %+v, want %+v", got, want)
	}
	return m
}

// checkAll checks rows, each as a subtest.
func checkAll(t *testing.T, r *harness, s *store, rows []row) {
	t.Helper()
	names := map[string]bool{}
	for _, row := range rows {
		if names[row.name] {
			t.Errorf("two rows have the name %q", row.name)
		}
		names[row.name] = true
		t.Run(row.name, func(t *testing.T) { row.check(t, r, s) })
	}
}
