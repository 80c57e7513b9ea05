package ingest_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// The organization of an event, or of a quarantined webhook, is that of the secret
// that has verified it, and nothing that the sender writes changes it. It is in the
// log, the trace and the metrics. Without one, all of these are as they always were.
func TestOrganization(t *testing.T) {
	t.Parallel()
	third := makeSecret("a-third-secret-with-no-name")
	tracing, recorder := traced()
	s := newStore(t)
	r := newHarness(t, s, tracing, func(c *ingest.Config) {
		c.Secrets = []string{"acme:" + secret, "globex:" + otherSecret, third}
	})
	forged := []string{
		"Ce-Organization: forged", "ce-organization: forged", "Ingress-Organization: forged", "Organization: forged",
		"Nats-Msg-Id: forged", "Ingress-Http-Ce-Organization: forged", "Content-Type: application/json; ce-organization=acme",
	}
	sequence := map[string]uint64{}
	for _, test := range []struct{ id, secret, body, want, organization string }{
		{"msg_1", secret, event(""), "200 stored", "acme"},
		{"msg_2", otherSecret, event(`,"organization":"acme","ce-organization":"acme"`), "200 stored", "globex"},
		{"msg_3", third, event(""), "200 stored", ""},
		{"msg_1", otherSecret, event(""), "200 duplicate", "globex"}, // the stored event stays that of the first
		{"msg_4", secret, `{"ce-organization":"globex"}`, "202 quarantined unsupported_type", "acme"},
		{"msg_5", otherSecret, "{", "202 quarantined malformed", "globex"},
		{"msg_6", third, "{", "202 quarantined malformed", ""},
		{"msg_7", makeSecret("a-fourth-secret-nobody-knows"), event(""), "401 unauthorized signature", ""},
	} {
		r.logs.take(t)
		recorder.Reset()
		request := signedBy(t, "Svix", test.secret, test.id, now, test.body).without("Content-Type").plus(forged...)
		a := exchange(t, r.address, request)
		lines, text := r.logs.take(t)
		if len(lines) != 1 || a.summary(lines[0]) != test.want {
			t.Fatalf("%s: got %d %s, logged %s; want %s", test.id, a.status, a.body, text, test.want)
		}
		inLog := strings.Contains(text, fmt.Sprintf(`"organization":%q`, test.organization))
		if test.organization == "" && strings.Contains(text, "organization") || test.organization != "" && !inLog {
			t.Errorf("%s: want organization %q, logged %s", test.id, test.organization, text)
		}
		spans := recorder.Ended()
		if name, ok := attributes(spans[len(spans)-1])["versive_ingress.organization"]; name != test.organization || ok != (name != "") {
			t.Errorf("%s: the span has the organization %q", test.id, name)
		}
		stream := "VERSIVE"
		if a.status == http.StatusAccepted {
			stream = "VERSIVE_QUARANTINE"
		}
		if a.status == http.StatusUnauthorized || strings.HasSuffix(test.want, "duplicate") {
			continue
		}
		sequence[stream]++
		header := s.message(t, stream, sequence[stream]).Header
		var want []string
		if test.organization != "" {
			want = []string{test.organization}
		}
		if diff := cmp.Diff(want, header["ce-organization"]); diff != "" {
			t.Errorf("%s: header (-want +got):\n%s", test.id, diff)
		}
		for name, values := range header {
			if name != "Ingress-Http-Content-Type" && strings.Contains(fmt.Sprint(values), "forged") || strings.EqualFold(name, "Ingress-Http-Ce-Organization") {
				t.Errorf("%s: header %s: %q", test.id, name, values)
			}
		}
	}

	// Labels are sorted by name: fingerprint, organization, position.
	want := map[string]float64{
		ingest.Fingerprint(secret) + " acme 1":        2,
		ingest.Fingerprint(otherSecret) + " globex 2": 3,
		ingest.Fingerprint(third) + " 3":              2,
	}
	if diff := cmp.Diff(want, r.metric(t, verifiedTotal)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", verifiedTotal, diff)
	}
	if got := slices.Sorted(maps.Keys(r.metric(t, lastVerified))); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("%s has the series %q", lastVerified, got)
	}
}

// A message without an organization is the same, byte for byte, whether other
// secrets have one or not.
func TestNoOrganization(t *testing.T) {
	t.Parallel()
	messages := map[string][]schema.Message{}
	for name, secrets := range map[string][]string{"alone": {secret}, "beside another": {"globex:" + otherSecret, secret}} {
		r := newHarness(t, fake{func(_ context.Context, m schema.Message) (schema.Receipt, error) {
			messages[name] = append(messages[name], m)
			return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
		}}, func(c *ingest.Config) { c.Secrets = secrets })
		r.post(t, signed(t, "msg_1", event("")))
		r.post(t, signed(t, "msg_2", "{"))
	}
	golden := map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"msg_1"}, "ce-type": {"com.getversive.interview.completed"},
		"ce-source": {"https://getversive.com/studies/study_1"}, "ce-subject": {"interview_1"},
		"ce-datacontenttype": {"application/json"}, "ce-dataschema": {"urn:versive-ingress:interview.completed:1"},
	}
	if diff := cmp.Diff(golden, messages["alone"][0].Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(messages["alone"], messages["beside another"], cmp.AllowUnexported(schema.Message{})); diff != "" {
		t.Errorf("messages (-alone +beside another):\n%s", diff)
	}
}

// One secret has one organization: with another name, or with none, it is refused at
// the start and by SetSecrets, which keeps the earlier ones.
func TestOrganizationsOfOneSecret(t *testing.T) {
	t.Parallel()
	unprefixed := strings.TrimPrefix(secret, "whsec_")
	r := newHarness(t, fake{}, func(c *ingest.Config) { c.Secrets = []string{"acme:" + secret} })
	for name, test := range map[string]struct {
		secrets []string
		want    string // "" if they are accepted
	}{
		"one name, twice":     {[]string{"acme:" + secret, otherSecret, "acme:" + unprefixed}, ""},
		"no name, twice":      {[]string{secret, unprefixed}, ""},
		"one name, two":       {[]string{"acme:" + secret, "acme:" + otherSecret}, ""},
		"two names":           {[]string{otherSecret, "acme:" + secret, "globex:" + unprefixed}, "signing secret 3 of 3 is the same as secret 2, which has another organization"},
		"a name and none":     {[]string{"acme:" + secret, secret}, "signing secret 2 of 2 is the same as secret 1, which has another organization"},
		"none and a name":     {[]string{secret, "acme:" + secret}, "signing secret 2 of 2 is the same as secret 1, which has another organization"},
		"no secret":           {[]string{"acme:"}, "signing secret 1 of 1 is empty"},
		"an empty name":       {[]string{":" + secret}, "signing secret 1 of 1 has an invalid name before its colon"},
		"upper case":          {[]string{"Acme:" + secret}, "has an invalid name before its colon"},
		"turned around":       {[]string{secret + ":acme"}, "has an invalid name before its colon"},
		"two names of one":    {[]string{"acme:globex:" + secret}, `is not "whsec_" and base64`},
		"a name that is long": {[]string{strings.Repeat("a", 64) + ":" + secret}, "has an invalid name before its colon"},
	} {
		err := r.handler.SetSecrets(test.secrets)
		_, errNew := ingest.New(ingest.Config{Secrets: test.secrets, MaxInflight: 1 << 20, MaxBody: 1 << 10})
		if test.want == "" {
			if err != nil || errNew != nil {
				t.Errorf("%s: got %v, and at the start %v", name, err, errNew)
			}
			continue
		}
		for _, err := range []error{err, errNew} {
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), unprefixed) {
				t.Errorf("%s: got %v, want %q and not the secret", name, err, test.want)
			}
		}
	}
	if got, want := ingest.Fingerprint("acme:"+secret), "acme:"+ingest.Fingerprint(secret); got != want {
		t.Errorf("the fingerprint is %s, want %s", got, want)
	}
}

// While the secrets of two organizations are rotated, renamed and moved, each event has
// the organization whose secret has signed it.
func TestOrganizationsUnderRotation(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]string{} // by id
	r := newHarness(t, fake{func(_ context.Context, m schema.Message) (schema.Receipt, error) {
		mu.Lock()
		defer mu.Unlock()
		got[m.ID] = schema.Organization(m.Header)
		return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
	}})
	const senders, each = 4, 250
	var secrets [4]string // the first two are acme's
	for i := range secrets {
		secrets[i] = makeSecret("the-secret-of-an-organization-" + itoa(i))
	}
	named := func(order ...int) (list []string) {
		for _, i := range order {
			list = append(list, []string{"acme:", "globex:"}[i/2]+secrets[i])
		}
		return list
	}
	lists := [][]string{named(0, 1, 2, 3), named(3, 1, 0), named(1, 2), named(2, 3, 0, 1), named(0, 2)}
	if err := r.handler.SetSecrets(lists[0]); err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() {
			for n := range each {
				id := fmt.Sprintf("msg_%d_%d", i, n)
				both := secrets[i/2*2:][:2] // with which the vendor signs during a rotation
				signed := signedBy(t, "Svix", both[0], id, now, event(""))
				signed = signed.with("Svix-Signature", sign(t, both[n%2], id, now, signed.body)+" "+sign(t, both[(n+1)%2], id, now, signed.body))
				request := httptest.NewRequest(http.MethodPost, webhookPath, strings.NewReader(signed.body))
				for _, line := range signed.header {
					name, value, _ := strings.Cut(line, ": ")
					request.Header.Set(name, value)
				}
				w := httptest.NewRecorder()
				r.handler.ServeHTTP(w, request)
				if w.Code != http.StatusOK {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
		case <-time.After(100 * time.Microsecond):
			if err := r.handler.SetSecrets(lists[i%len(lists)]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		break
	}
	if len(got) != senders*each {
		t.Errorf("%d events, want %d", len(got), senders*each)
	}
	for id, organization := range got {
		if want := []string{"acme", "acme", "globex", "globex"}[id[len("msg_")]-'0']; organization != want {
			t.Fatalf("%s has the organization %q, want %q", id, organization, want)
		}
	}
}
