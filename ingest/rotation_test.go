package ingest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

const (
	verifiedTotal = "versive_ingress_secret_verified_total"
	lastVerified  = "versive_ingress_secret_last_verified_timestamp_seconds"
)

// A secret keeps its counts during a rotation, in any position, until it is removed.
func TestSetSecrets(t *testing.T) {
	t.Parallel()
	stored := fake{func(context.Context, schema.Message) (schema.Receipt, error) {
		return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
	}}
	clock := now
	r := newHarness(t, stored, func(c *ingest.Config) { c.Now = func() time.Time { return clock } })
	first, second := ingest.Fingerprint(secret), ingest.Fingerprint(otherSecret)
	const accepted, rejected = "200 stored", "401 unauthorized signature"

	n := 0
	post := func(by, want string) {
		t.Helper()
		n++
		if got, a := r.post(t, signedBy(t, "Svix", by, "msg_"+itoa(n), now, event(""))); got != want {
			t.Errorf("got %q, want %q: %s", got, want, a.body)
		}
	}
	metric := func(name string, want map[string]float64) { // keys: fingerprint and position
		t.Helper()
		if diff := cmp.Diff(want, r.metric(t, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	set := func(secrets ...string) {
		t.Helper()
		if err := r.handler.SetSecrets(secrets); err != nil {
			t.Error(err)
		}
	}
	seconds := func(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

	post(secret, accepted)
	post(otherSecret, rejected)
	metric(verifiedTotal, map[string]float64{first + " 1": 1})

	set(otherSecret, secret)
	metric(verifiedTotal, map[string]float64{second + " 1": 0, first + " 2": 1})
	metric(lastVerified, map[string]float64{second + " 1": 0, first + " 2": seconds(now)})
	clock = now.Add(time.Minute)
	post(secret, accepted)
	post(otherSecret, accepted)
	post(otherSecret, accepted)
	post(makeSecret("a-third-secret-nobody-knows"), rejected)
	metric(verifiedTotal, map[string]float64{second + " 1": 2, first + " 2": 2})
	metric(lastVerified, map[string]float64{second + " 1": seconds(clock), first + " 2": seconds(clock)})

	// Of a request signed with both, as the sender does during a rotation, the first
	// secret is counted.
	both := signedBy(t, "Svix", otherSecret, "msg_both", now, event(""))
	both = both.with("Svix-Signature", sign(t, secret, "msg_both", now, both.body)+" "+sign(t, otherSecret, "msg_both", now, both.body))
	if got, _ := r.post(t, both); got != accepted {
		t.Errorf("signed with both: %s", got)
	}
	metric(verifiedTotal, map[string]float64{second + " 1": 3, first + " 2": 2})

	// An invalid list changes nothing and is not quoted.
	for name, secrets := range map[string][]string{
		"none":         nil,
		"an empty one": {secret, ""},
		"a short one":  {"whsec_c2hvcnQ="},
		"no base64":    {otherSecret, "whsec_hunter2!"},
	} {
		err := r.handler.SetSecrets(secrets)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	metric(verifiedTotal, map[string]float64{second + " 1": 3, first + " 2": 2})
	post(secret, accepted)

	// Of two equal secrets, only the first is counted.
	set(otherSecret, secret, secret)
	metric(verifiedTotal, map[string]float64{second + " 1": 3, first + " 2": 3, first + " 3": 0})

	set(otherSecret)
	metric(verifiedTotal, map[string]float64{second + " 1": 3})
	metric(lastVerified, map[string]float64{second + " 1": seconds(clock)})
	post(secret, rejected)
	post(otherSecret, accepted)
}

// SetSecrets fails no request whose secret is in both lists, even if it is called
// all the time.
func TestSetSecretsUnderLoad(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{func(context.Context, schema.Message) (schema.Receipt, error) {
		return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
	}})
	const senders, each = 4, 250
	var sending sync.WaitGroup
	for i := range senders {
		request := signedBy(t, "Svix", secret, "msg_"+itoa(i), now, event(""))
		sending.Go(func() {
			for range each {
				parsed := httptest.NewRequest(http.MethodPost, webhookPath, strings.NewReader(request.body))
				for _, line := range request.header {
					name, value, _ := strings.Cut(line, ": ")
					parsed.Header.Set(name, value)
				}
				w := httptest.NewRecorder()
				r.handler.ServeHTTP(w, parsed)
				if w.Code != http.StatusOK {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	lists := [][]string{{secret, otherSecret}, {otherSecret, secret}, {secret}}
	for i := 0; ; i++ {
		select {
		case <-done:
			var total float64
			for _, n := range r.metric(t, verifiedTotal) {
				total += n
			}
			if total != senders*each {
				t.Errorf("%v verified, want %d", total, senders*each)
			}
			return
		default:
			if err := r.handler.SetSecrets(lists[i%len(lists)]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	// printf 'the-signing-secret-of-tests' | sha256sum | cut -c1-8
	if got, want := ingest.Fingerprint(secret), "85227630"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if ingest.Fingerprint(strings.TrimPrefix(secret, "whsec_")) != ingest.Fingerprint(secret) {
		t.Error("the prefix makes a difference")
	}
	if got := ingest.Fingerprint("whsec_c2hvcnQ="); got != "" {
		t.Errorf("an invalid secret has the fingerprint %q", got)
	}
}
