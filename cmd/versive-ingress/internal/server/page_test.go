package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/page"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const (
	marker  = "MARKER-c4f1"
	private = `{"event_type":"interview.completed","study":{"id":"study_<b>","title":"` + marker + `","metadata":{"a":"` + marker + `"}},
		"interview":{"id":"interview_1","transcript":"` + marker + `","metadata":{"` + marker + `":1},"vid":"` + marker + `"}}`
)

// A shown is what /status has. A level of doctor cannot be decoded.
type shown struct {
	page.Status
	Doctor *struct{ Verdict string } `json:"doctor"`
}

func (s *system) shown(t testing.TB) (status shown) {
	t.Helper()
	code, text := s.admin("/status")
	if err := json.Unmarshal([]byte(text), &status); err != nil || code != http.StatusOK {
		t.Fatalf("/status: %d %v: %s", code, err, text)
	}
	return status
}

// The page shows what has come, what is stored, what waits and who reads it, and nothing
// of the content.
func TestPage(t *testing.T) {
	t.Parallel()
	s := run(t, newSettings(t))
	embeddedtest.Await(t, "counts are remembered", func() bool { return len(s.shown(t).Minutes) > 0 })
	s.post("msg_1", private)
	s.post("msg_1", private)
	s.post("msg_2", `{"event_type":"other","text":"`+marker+`"}`)
	do(s.request("whsec_"+strings.Repeat("A", 44), "msg_3", private))
	events := embeddedtest.Connect(t, s.BrokerURL())
	if _, err := events.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}

	if err := (subscribe.Source{JetStream: events}).EnsureDeadLetters(t.Context()); err != nil {
		t.Fatal(err)
	}
	letter := schema.Dead{Consumer: "reports", Reason: marker, ID: "msg_8", Subject: "versive.interview.completed.s.interview_8.msg_8", Sequence: 8, Deliveries: 1}
	for _, m := range []schema.Message{schema.DeadLetter(letter, nil, []byte(marker)), schema.Requeue("reports", "msg_8", 1)} {
		if _, err := events.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
			t.Fatal(err)
		}
	}

	var status shown
	embeddedtest.Await(t, "everything is shown", func() bool {
		status = s.shown(t)
		return status.LastHour.Rejected > 0 && len(status.Consumers) == 1 && status.Quarantine != nil && *status.Quarantine == 1 && status.Doctor != nil
	})
	rejected := status.LastHour.Rejected // includes requests of doctor
	if want := (page.Requests{Received: 3 + rejected, Stored: 1, Duplicates: 1, Quarantined: 1, Rejected: rejected}); status.LastHour != want {
		t.Errorf("last hour %+v, want %+v", status.LastHour, want)
	}
	if e := status.Events; len(e) != 1 || e[0].ID != "msg_1" || e[0].Study != "study_<b>" || e[0].Interview != "interview_1" || e[0].Sequence != 1 || time.Since(e[0].Time) > time.Minute {
		t.Errorf("events %+v", e)
	}
	if c := status.Consumers[0]; c.Consumer != "reports" || c.Pending != 1 {
		t.Errorf("consumer %+v", c)
	}
	if len(status.Streams) != 3 || status.Streams[1].Messages != 1 || status.Store == nil || len(status.Secrets) != 1 || status.Secrets[0].Verified != 3 || !status.Ready {
		t.Errorf("status %+v", status)
	}

	for id, want := range map[string]string{
		"msg_1":       "event: 1 stored",
		"interview_1": "interview: 1 stored",
		"study_<b>":   "study: 1 stored",
		"msg_2":       "In the quarantine as VERSIVE_QUARANTINE 1",
		"interview_8": "reports gave up on event 8 at ",
		"msg_8":       ": VERSIVE_DEAD 1, requeued at ",
		"INTERVIEW_1": "Did you mean interview interview_1?",
		"msg_9":       "Nothing.",
	} {
		if _, found := s.admin("/?find=" + url.QueryEscape(id)); !strings.Contains(found, want) || strings.Contains(found, marker) {
			t.Errorf("find %s: want %q in:\n%s", id, want, found)
		}
	}

	_, html := s.admin("/")
	_, data := s.admin("/status?find=interview_1")
	for _, text := range []string{"msg_1", "study_&lt;b&gt;", "interview_1", "reports", "VERSIVE_QUARANTINE", "quarantine list", status.Secrets[0].Fingerprint, status.Doctor.Verdict} {
		if !strings.Contains(html, text) {
			t.Errorf("the page does not show %q", text)
		}
	}
	for _, text := range []string{html, data, s.log.String()} {
		if strings.Contains(text, marker) || strings.Contains(text, s.settings.Secrets[0]) {
			t.Errorf("content or a secret is shown:\n%s", text)
		}
	}
}

// Nothing that is looked for or that another program has stored keeps the page from being
// shown.
func TestPageShowsEverything(t *testing.T) {
	t.Parallel()
	s := run(t, newSettings(t))
	js := embeddedtest.Connect(t, s.BrokerURL())
	for _, subject := range []string{"versive.interview.completed.%FF.%FE.%FD", "versive.\xff.\xfe.a.b.c.d", "versive.a"} {
		if _, err := js.Publish(t.Context(), subject, []byte("\xff")); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/", "/status", "/?find=%FF", "/status?find=%FF", "/status?find=*", "/status?find=%3E", "/status?find=a.b+c", "/status?find=%00"} {
		if code, text := s.admin(path); code != http.StatusOK || strings.Contains(text, `"problem": "s`) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if got := s.shown(t); len(got.Events) != 3 {
		t.Errorf("%d events are shown", len(got.Events))
	}
}

// A browser runs and loads nothing but what the ingress serves, and every name that a part
// of the page has for a screen reader exists.
func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	s := run(t, newSettings(t))
	for path, contentType := range map[string]string{"/": "text/html", "/?find=x": "text/html", "/status": "application/json", "/style.css": "text/css", "/refresh.js": "text/javascript"} {
		response, err := http.Get("http://" + s.settings.AdminListen + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		policy := response.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(response.Header.Get("Content-Type"), contentType) || response.StatusCode != http.StatusOK ||
			!strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || response.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, response.StatusCode, response.Header)
		}
	}
	_, html := s.admin(`/?find="><script>alert(1)</script>`)
	for _, pattern := range []string{`<script>`, `<script[^>]*>[^<]`, `<style`, ` style=`, ` on[a-z]+=`, `(src|href|action)="([a-z]+:)?//`} {
		if found := regexp.MustCompile(pattern).FindString(html); found != "" {
			t.Errorf("the page contains %q", found)
		}
	}
	var ids []string
	for _, match := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		if slices.Contains(ids, match[1]) {
			t.Errorf("id %q occurs twice", match[1])
		}
		ids = append(ids, match[1])
	}
	for _, match := range regexp.MustCompile(` (?:aria-labelledby|for)="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		if !slices.Contains(ids, match[1]) {
			t.Errorf("there is no element %q", match[1])
		}
	}
	for path, want := range map[string]int{"/other": http.StatusNotFound, "/index.html": http.StatusNotFound} {
		if code, _ := s.admin(path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	response, err := http.Post("http://"+s.settings.AdminListen+"/", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", response.StatusCode)
	}
}

// Without a broker the page still answers, and shows why the ingress is not ready, and that
// consumers and events are unknown.
func TestPageWithoutBroker(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: t.TempDir()})
	settings.NATSURL, settings.NATSListen = broker.URL(), ""
	s := run(t, settings)
	s.post("msg_1", sample)
	broker.Stop()
	embeddedtest.Await(t, "the loss is shown", func() bool { return s.shown(t).Unread != "" })
	embeddedtest.Await(t, "the ingress is not ready", func() bool { return !s.shown(t).Ready })
	if _, html := s.admin("/"); !strings.Contains(html, "<strong>Not ready</strong>: ") || !strings.Contains(html, "could not be read") || strings.Count(html, "<p>Unknown.</p>") != 2 {
		t.Errorf("page:\n%s", html)
	}
}
