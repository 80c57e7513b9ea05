package ingest_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// No answer, log line or metric contains content of an interview, or the
// secret, for any outcome of the request.
func TestSecrecy(t *testing.T) {
	t.Parallel()
	const marker = "m4rk3r"
	key := strings.Repeat(marker, 5)
	secret := makeSecret(key)
	s := newStore(t)
	failing := false
	r := newHarness(t, fake{func(ctx context.Context, m schema.Message) (schema.Receipt, error) {
		if failing {
			return schema.Receipt{}, namedError{"full"}
		}
		return s.Publish(ctx, m)
	}}, func(c *ingest.Config) { c.Secrets = []string{secret} })

	members := fmt.Sprintf(`,"title":%q,"transcript":%[1]q,"metadata":{%[1]q:%[1]q},%[1]q:{%[1]q:[%[1]q]},"vid":%[1]q,`+
		`"recording_url":%[1]q,"parsed_conversation_json":[{"role":%[1]q,"content":%[1]q,%[1]q:1}]`, marker)
	good := event(members)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the body has no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	post := func(id, body string) request {
		return signedBy(t, "Svix", secret, id, now, body).
			plus("User-Agent: "+marker, "Cookie: "+marker, "X-"+marker+": "+marker, "Referer: "+marker).
			to("POST " + webhookPath + "?" + marker + " HTTP/1.1")
	}
	rows := []row{
		{"stored", post("msg_1", good), "200 stored"},
		{"duplicate", post("msg_1", good), "200 duplicate"},
		{"ids", post("msg_2", replace("interview_1", marker)), "200 stored"},

		{"cut", post("msg_3", good[:len(good)-20]), "202 quarantined malformed"},
		{"not JSON", post("msg_4", marker), "202 quarantined malformed"},
		{"duplicate name", post("msg_5", replace(`"metadata":{`, `"metadata":{"m4rk3r":1,`)), "202 quarantined malformed"},
		{"duplicate unknown name", post("msg_6", replace(`"vid"`, `"m4rk3r":1,"vid"`)), "202 quarantined malformed"},
		{"broken text", post("msg_7", replace(`"transcript":"`, "\"transcript\":\"\xff")), "202 quarantined malformed"},
		{"broken name", post("msg_8", replace(`{"m4rk3r":[`, `{"m4rk3r`+"\x01"+`":[`)), "202 quarantined malformed"},
		{"more data", post("msg_9", good+marker), "202 quarantined malformed"},

		{"another type", post("msg_10", replace("interview.completed", marker)), "202 quarantined unsupported_type"},
		{"text for an object", post("msg_11", replace(`{"m4rk3r":"m4rk3r"}`, `"m4rk3r"`)), "202 quarantined invalid"},
		{"object for a text", post("msg_12", replace(`"transcript":"m4rk3r"`, `"transcript":{"m4rk3r":1}`)), "202 quarantined invalid"},
		{"text for a time", post("msg_13", replace(`"title":`, `"ended_at":"m4rk3r","title":`)), "202 quarantined invalid"},
		{"overlong id", post("msg_14", replace("interview_1", strings.Repeat(marker, 50))), "202 quarantined invalid"},
		{"a turn that is a text", post("msg_15", replace(`"content":"m4rk3r"`, `"content":["m4rk3r"]`)), "202 quarantined invalid"},

		{"forged", post("msg_16", good).with("Svix-Signature", "v1,"+marker), "401 unauthorized signature"},
		{"forged id", post("msg_17", good).with("Svix-Id", marker), "401 unauthorized signature"},
		{"the secret as a signature", post("msg_18", good).with("Svix-Signature", secret), "401 unauthorized signature"},
		{"bad timestamp", post("msg_19", good).with("Svix-Timestamp", marker), "401 unauthorized timestamp_malformed"},
		{"bad id", post("msg_20", good).with("Svix-Id", marker+" "+marker), "400 bad_request id"},
		{"repeated", post("msg_21", good).plus("Svix-Id: " + marker), "400 bad_request repeated_header"},
		{"long signature", post("msg_22", good).with("Svix-Signature", strings.Repeat(marker, 1000)), "400 bad_request signature_length"},
		{"encoded", post("msg_23", good).plus("Content-Encoding: " + marker), "415 unsupported_encoding content_encoding"},
		{"lost", post("msg_24", good).to("POST /" + marker + " HTTP/1.1"), "404 not_found path"},
		{"another method", post("msg_25", good).to(marker + " " + webhookPath + " HTTP/1.1"), "405 method_not_allowed method"},
		{"cut short", post("msg_26", good).sending(good[:200]).cutOff(), "400 bad_request body_cut_short"},
	}
	// The error of a failure is logged, and the publisher keeps it free of content.
	failures := []row{
		{"failed", post("msg_27", good), "503 unavailable full"},
		{"failed in quarantine", post("msg_28", marker), "503 unavailable full"},
	}

	forbidden := []string{marker, strings.TrimPrefix(secret, "whsec_"), base64.StdEncoding.EncodeToString([]byte(marker)), "whsec_"}
	check := func(row row) {
		_, _ = r.logs.take(t)
		a := exchange(t, r.address, row.request)
		lines, text := r.logs.take(t)
		if len(lines) != 1 || a.summary(lines[0]) != row.want {
			t.Errorf("%s: got %d %s, logged %s; want %s", row.name, a.status, a.body, text, row.want)
		}
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for place, text := range map[string]string{
			"answer": a.body + fmt.Sprint(a.header), "log": text, "metrics": fmt.Sprint(families),
		} {
			if i := slices.IndexFunc(forbidden, func(f string) bool { return strings.Contains(text, f) }); i >= 0 {
				t.Errorf("%s: the %s contains %q: %s", row.name, place, forbidden[i], text)
			}
		}
	}
	for _, row := range rows {
		check(row)
	}
	failing = true
	for _, row := range failures {
		check(row)
	}
}
