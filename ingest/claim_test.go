package ingest_test

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"versive-ingress/ingest"
)

func itoa(n int) string { return strconv.Itoa(n) }

// timestampRows are requests with a timestamp that is off or malformed.
func timestampRows(t testing.TB) []row {
	const (
		tooOld    = "401 unauthorized timestamp_too_old"
		tooNew    = "401 unauthorized timestamp_too_new"
		malformed = "401 unauthorized timestamp_malformed"
	)
	var rows []row
	for _, at := range []struct {
		name string
		time time.Time
		want string
	}{
		{"old as the tolerance", now.Add(-5 * time.Minute), "200 stored"},
		{"a second older than the tolerance", now.Add(-5*time.Minute - time.Second), tooOld},
		{"new as the tolerance", now.Add(5 * time.Minute), "200 stored"},
		{"a second newer than the tolerance", now.Add(5*time.Minute + time.Second), tooNew},
		{"a day old", now.AddDate(0, 0, -1), tooOld},
		{"a day ahead", now.AddDate(0, 0, 1), tooNew},
		{"in milliseconds", time.Unix(now.UnixMilli(), 0), tooNew},
		{"the epoch", time.Unix(0, 0), tooOld},
		{"negative", time.Unix(-1, 0), tooOld},
		{"the negative of now", time.Unix(-now.Unix(), 0), tooOld},
		{"the largest", time.Unix(math.MaxInt64, 0), tooNew},
		{"the smallest", time.Unix(math.MinInt64, 0), tooOld},
	} {
		for _, prefix := range []string{"Svix", "Webhook"} {
			id := "msg_at_" + prefix + strings.ReplaceAll(at.name, " ", "_")
			rows = append(rows, row{prefix + " timestamp " + at.name, signedBy(t, prefix, secret, id, at.time, event("")), at.want})
		}
	}
	r := signed(t, "msg_timestamp", event(""))
	for _, value := range []string{
		"now", "9223372036854775808", "-9223372036854775809", "99999999999999999999999", unix(now) + ".0", unix(now) + ".5",
		"1.79e9", "1 790 000 000", "1790000000 1790000000", "1_790_000_000", "0x6AB13B80", "1790000000,", "2026-09-21T13:33:20Z",
		"١٧٩٠٠٠٠٠٠٠", "-", "+", "1790000000;", "NaN",
	} {
		rows = append(rows, row{"timestamp " + value, r.with("Svix-Timestamp", value), malformed})
	}
	// The signature covers the parsed number.
	for i, value := range []string{"+1790000000", "00001790000000", " 1790000000 "} {
		r := signed(t, "msg_timestamp_"+itoa(i), event(""))
		rows = append(rows, row{"timestamp written as " + value, r.with("Svix-Timestamp", value), "200 stored"})
	}
	return rows
}

// idRows are requests with ids that have a meaning in NATS or HTTP, or are invalid.
// The id becomes a header and a subject token.
func idRows(t testing.TB) []row {
	var rows []row
	for _, id := range []string{
		"*", ">", ".", "..", "a.b", "msg.*", "versive.>", "$JS.API.STREAM.DELETE.VERSIVE", "%2A", "%", "%00",
		"+", "msg_1,msg_2", `"msg"`, `\r\n`, "{}", "<id>", "/../..", "~", "!", ":", "-1",
		strings.Repeat("m", 128), strings.Repeat("*", 128),
	} {
		rows = append(rows, row{"id " + id, signed(t, id, event("")), "200 stored"})
	}
	rejected := func(name, id, want string) {
		rows = append(rows, row{"id " + name, signed(t, id, event("")), want})
	}
	const invalid = "400 bad_request id"
	rejected("of 129 bytes", strings.Repeat("m", 129), invalid)
	rejected("of 5,000 bytes", strings.Repeat("m", 5000), invalid)
	// A subject of that length would make the broker close the connection.
	rows = append(rows, row{"after an id of 5,000 bytes", signed(t, "msg_after_long_id", event("")), "200 stored"})
	// The signed text "id.timestamp.body" is ambiguous if the body begins with a
	// timestamp: the signature would also verify for another id and body.
	divided := signed(t, "msg_1", unix(now)+"."+event(""))
	rows = append(rows,
		row{"a body that begins with a timestamp", divided, "202 quarantined malformed"},
		row{"its signature, divided elsewhere", divided.with("Svix-Id", "msg_1."+unix(now)).with("Content-Length", itoa(len(event("")))).sending(event("")), invalid})
	rejected("with a number after a dot", "msg.1700000000", invalid)
	rejected("with a signed number after a dot", "msg.-1.x", invalid)
	rejected("with a space", "msg 1", invalid)
	rejected("with a tab", "msg\t1", invalid)
	rejected("not ASCII", "msg_ü", invalid)
	rejected("not UTF-8", "msg_\xff", invalid)
	rejected("with a non-breaking space", "msg\u00a01", invalid)
	rejected("folded over two lines", "msg\r\n 1", invalid)
	// net/http answers these itself.
	rejected("with a line break", "msg\r\n1", "400")
	rejected("with a line feed", "msg\n1", "400")
	rejected("with a carriage return", "msg\r1", "400")
	rejected("with NUL", "msg\x001", "400")
	rejected("with DEL", "msg\x7f1", "400")
	rejected("with an escape", "msg\x1b[0m", "400")
	// The line break ends the header, so the id that arrives is not the signed one.
	r := signed(t, "msg_1\r\nNats-Rollup: all", event(""))
	rows = append(rows, row{"id with a header after a line break", r, "401 unauthorized signature"})
	return rows
}

// The broker accepts the subject that the longest ids make.
func TestLongestSubject(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	long := strings.Repeat("\u00fc", 128) // 256 bytes, each percent-encoded as three
	body := `{"event_type":"interview.completed","interview":{"id":"` + long + `"},"study":{"id":"` + long + `"}}`
	row{"longest", signed(t, strings.Repeat("*", 128), body), "200 stored"}.check(t, r, s)

	body = strings.Replace(body, `"}}`, `x"}}`, 1)
	row{"longer", signed(t, "msg_longer", body), "202 quarantined invalid"}.check(t, r, s)
	row{"good", signed(t, "msg_good", event("")), "200 stored"}.check(t, r, s)
}

// During a rotation, two secrets are accepted and the sender signs with one or both.
func TestTwoSecrets(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s, func(c *ingest.Config) { c.Secrets = []string{secret, otherSecret} })
	body := event("")
	both := signed(t, "msg_3", body)
	third := makeSecret("a-third-secret-nobody-knows")
	checkAll(t, r, s, []row{
		{"the first", signedBy(t, "Svix", secret, "msg_1", now, body), "200 stored"},
		{"the second", signedBy(t, "Svix", otherSecret, "msg_2", now, body), "200 stored"},
		{"both", both.with("Svix-Signature", sign(t, secret, "msg_3", now, body)+" "+sign(t, otherSecret, "msg_3", now, body)), "200 stored"},
		{"an unknown one and the second", signed(t, "msg_4", body).with("Svix-Signature", sign(t, third, "msg_4", now, body)+" "+sign(t, otherSecret, "msg_4", now, body)), "200 stored"},
		{"an unknown one", signedBy(t, "Svix", third, "msg_5", now, body), "401 unauthorized signature"},
		{"resent, signed with the other secret", signedBy(t, "Webhook", otherSecret, "msg_1", now, body), "200 duplicate"},
	})
}

// A header with ten thousand signatures does not reach the svix library.
func TestManySignatures(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	request := signed(t, "msg_1", event(""))
	request = request.with("Svix-Signature", strings.Repeat("v1,"+strings.Repeat("A", 43)+"= ", 9_999)+sign(t, secret, "msg_1", now, request.body))
	row{"", request, "431"}.check(t, r, s)
	r.address = serve(t, r.handler, 1<<20)
	row{"", request, "400 bad_request signature_length"}.check(t, r, s)
}

// The example is from the svix library's documentation.
func TestPublishedVector(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s, func(c *ingest.Config) {
		c.Secrets = []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
		c.Now = func() time.Time { return time.Unix(1614265330, 0) }
	})
	body := `{"test": 2432232314}`
	request := signed(t, "msg_p5jXN8AQM9LWM0D4loKWxJek", body).
		with("Svix-Timestamp", "1614265330").
		with("Svix-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	row{"", request, "202 quarantined unsupported_type"}.check(t, r, s)
}

// The log line of a rejected timestamp has its distance from the clock.
func TestTimestampSkewIsLogged(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{})
	for seconds, want := range map[int]string{-301: `"skew_seconds":-301`, 86400: `"skew_seconds":86400`} {
		r.logs.take(t)
		exchange(t, r.address, signedBy(t, "Svix", secret, "msg_skew", now.Add(time.Duration(seconds)*time.Second), event("")))
		if _, text := r.logs.take(t); !strings.Contains(text, want) {
			t.Errorf("the log does not have %s: %s", want, text)
		}
	}
}
