package ingest_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// sample returns the example body of the vendor's documentation.
func sample(t testing.TB) string {
	t.Helper()
	body, err := os.ReadFile("testdata/interview.completed.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The documented body is stored in canonical form, under the subject for its ids.
func TestStored(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	body := sample(t)
	m := row{"", signed(t, "msg_1", body), "200 stored"}.check(t, r, s)

	if want := "versive.interview.completed.study_123.3fa85f64-5717-4562-b3fc-2c963f66afa6.msg_1"; m.Subject != want {
		t.Errorf("stored under %s, want %s", m.Subject, want)
	}
	canonical, err := schema.Normalize("msg_1", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(canonical.Data), string(m.Data)); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	for name, want := range canonical.Header {
		if diff := cmp.Diff(want, m.Header[name]); diff != "" {
			t.Errorf("header %s (-want +got):\n%s", name, diff)
		}
	}
}

// The answer to any resend names the stored copy.
func TestResent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, first, resent string }{
		{"event", event(""), "200 stored", "200 duplicate"},
		{"malformed", "{", "202 quarantined malformed", "202 quarantined malformed"},
		{"unsupported", "{}", "202 quarantined unsupported_type", "202 quarantined unsupported_type"},
		{"invalid", `{"event_type":"interview.completed"}`, "202 quarantined invalid", "202 quarantined invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			clock := now
			r := newHarness(t, s, func(c *ingest.Config) { c.Now = func() time.Time { return clock } })
			first := signed(t, "msg_1", test.body)
			row{"", first, test.first}.check(t, r, s)
			stored := s.state(t)
			_, a := r.post(t, first)

			for _, resend := range []struct {
				name    string
				request request
				after   time.Duration
			}{
				{"the same request", first, 0},
				{"in chunks", first.chunked(), 0},
				{"signed afresh, four minutes later", signedBy(t, "Svix", secret, "msg_1", now.Add(4*time.Minute), test.body), 4 * time.Minute},
				{"with the other header set, a day later", signedBy(t, "Webhook", secret, "msg_1", now.AddDate(0, 0, 1), test.body), 24 * time.Hour},
			} {
				clock = now.Add(resend.after)
				got, b := r.post(t, resend.request)
				if got != test.resent {
					t.Errorf("%s: got %q, want %q", resend.name, got, test.resent)
				}
				if a.body != b.body { // the same stream and sequence
					t.Errorf("%s: answered %s, want %s", resend.name, b.body, a.body)
				}
				if got := s.state(t); got != stored {
					t.Errorf("%s: the streams hold %+v, want %+v", resend.name, got, stored)
				}
			}
		})
	}
}

// Concurrent resends are stored once.
func TestConcurrentResends(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	const ids, copies = 8, 8
	answers := make([][copies]answer, ids)
	var wg sync.WaitGroup
	for i := range ids {
		request := signed(t, "msg_"+itoa(i), event(""))
		for k := range copies {
			conn, from := dial(t, r.address)
			wg.Go(func() {
				if _, err := conn.Write([]byte(request.head() + request.body)); err != nil {
					t.Error(err)
				}
				answers[i][k] = readAnswer(t, from, request)
			})
		}
	}
	wg.Wait()
	for i, of := range answers {
		fresh := 0
		place := func(a answer) string { return a.body[strings.Index(a.body, `"stream"`):] }
		for _, a := range of {
			if strings.Contains(a.body, `"stored"`) {
				fresh++
			}
			if a.status != 200 || place(a) != place(of[0]) {
				t.Errorf("id %d got %d %s and %d %s", i, a.status, a.body, of[0].status, of[0].body)
			}
		}
		if fresh != 1 {
			t.Errorf("id %d was new %d times, want once", i, fresh)
		}
	}
	if got, want := s.state(t), (state{ids, ids, 0, 0}); got != want {
		t.Errorf("the streams hold %+v, want %+v", got, want)
	}
}

// New does not accept a weak or malformed secret, and its error, which may be
// logged, does not quote it.
func TestSecrets(t *testing.T) {
	long := strings.Repeat("k", ingest.MinSecretLen)
	for _, test := range []struct {
		name, secret, want string // want is empty if the secret is accepted
	}{
		{"good", secret, ""},
		{"the shortest", makeSecret(long), ""},
		{"without its prefix", strings.TrimPrefix(secret, "whsec_"), ""},
		{"empty", "", "is empty"},
		{"the prefix alone", "whsec_", "has 0 bytes"},
		{"23 bytes", makeSecret(long[1:]), "has 23 bytes, want at least 24"},
		{"not base64", "whsec_" + strings.Repeat("!", 40), "is not"},
		{"truncated", secret[:len(secret)-1], "is not"},
		{"with a line break before", "\n" + secret, "is not"},
		{"with a space within", secret[:20] + " " + secret[20:], "white space"},
		{"with quotes", `"` + secret + `"`, "is not"},
		{"public key", "whpk_" + secret[6:], "is a public key (whpk_…)"},
		{"two in one", secret + "," + otherSecret, "is not"},
		{"two prefixes", "whsec_" + secret, "is not"},
		{"URL alphabet", "whsec_" + strings.Repeat("-_", 16), "is not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkErr := func(err error) {
				t.Helper()
				switch {
				case test.want == "" && err != nil:
					t.Errorf("not accepted: %v", err)
				case test.want == "":
				case err == nil:
					t.Error("accepted")
				case !strings.Contains(err.Error(), test.want):
					t.Errorf("got %q, want it to contain %q", err, test.want)
				case len(test.secret) > len("whsec_") && strings.Contains(err.Error(), strings.Trim(test.secret, "\n")[6:]):
					t.Errorf("the error quotes the secret: %v", err)
				}
			}
			checkErr(ingest.CheckSecret(test.secret))
			_, err := ingest.New(ingest.Config{Secrets: []string{secret, test.secret}})
			checkErr(err)
			if err != nil && !strings.Contains(err.Error(), "2 of 2") {
				t.Errorf("got %q, want it to say 2 of 2", err)
			}
		})
	}
	if _, err := ingest.New(ingest.Config{}); err == nil {
		t.Error("New accepts an empty list of secrets")
	}
}
