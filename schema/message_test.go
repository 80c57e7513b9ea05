package schema_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

func TestKind(t *testing.T) {
	for _, test := range []struct {
		kind           schema.Kind
		stream, prefix string
	}{
		{schema.KindEvent, "VERSIVE", "versive"},
		{schema.KindQuarantine, "VERSIVE_QUARANTINE", "versive-quarantine"},
		{schema.KindDead, "VERSIVE_DEAD", "versive-dead"},
	} {
		if got := test.kind.Stream("VERSIVE"); got != test.stream {
			t.Errorf("stream is %s, want %s", got, test.stream)
		}
		if got := test.kind.Prefix("versive"); got != test.prefix {
			t.Errorf("prefix is %s, want %s", got, test.prefix)
		}
	}
}

func TestQuarantine(t *testing.T) {
	raw := []byte("\xff not JSON")
	_, err := schema.Normalize("msg_1.a%", raw)
	origin := map[string][]string{
		"Svix-Id":        {"msg_1.a%"},
		"Svix-Signature": {"v1,a= v1,b=", "v1,\"c\"="},
		"Content-Type":   {"application/json;\tcharset=\"utf-8\"\r\nNats-Rollup: all"},
	}
	got := schema.Quarantine("msg_1.a%", raw, refusal(t, err), origin)

	if got.Kind != schema.KindQuarantine || got.ID != "msg_1.a%" || !bytes.Equal(got.Data, raw) {
		t.Errorf("got %+v", got)
	}
	if got, want := got.Subject("versive"), "versive-quarantine.msg_1%2Ea%25"; got != want {
		t.Errorf("subject is %s, want %s", got, want)
	}
	want := map[string][]string{
		schema.HeaderReason:           {"malformed"},
		schema.HeaderDescription:      {"body is not valid JSON (byte 0)"},
		"Ingress-Http-Svix-Id":        {"msg_1.a%25"},
		"Ingress-Http-Svix-Signature": {"v1,a=%20v1,b=", "v1,%22c%22="},
		"Ingress-Http-Content-Type":   {"application/json;%09charset=%22utf-8%22%0D%0ANats-Rollup:%20all"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
}

// TestEventMessage: no header of an event is one that the broker obeys.
func TestEventMessage(t *testing.T) {
	message := normalize(t, body(`,"Nats-Rollup":"all"`, "", ""))
	if message.Kind != schema.KindEvent || message.ID != svixID {
		t.Errorf("got kind %d, id %q", message.Kind, message.ID)
	}
	for name := range message.Header {
		if !strings.HasPrefix(name, "ce-") {
			t.Errorf("header %s", name)
		}
	}
}

// A message without an organization has no header for it, and is the same as ever
// otherwise. A dead letter has the organization of its event.
func TestOrganization(t *testing.T) {
	plain, named := normalize(t, body("", "", "")).WithOrganization(""), normalize(t, body("", "", "")).WithOrganization("acme-1")
	if got := schema.Organization(plain.Header); got != "" || len(plain.Header["ce-organization"]) > 0 {
		t.Errorf("without a name: %q, header %v", got, plain.Header)
	}
	if got := schema.Organization(named.Header); got != "acme-1" {
		t.Errorf("got %q", got)
	}
	dead := schema.DeadLetter(schema.Dead{Consumer: "c", ID: named.ID, Subject: named.Subject("versive")}, named.Header, named.Data)
	if got := schema.Organization(dead.Header); got != "acme-1" {
		t.Errorf("its dead letter has %q", got)
	}
	stored := schema.Stored(named.Kind, named.Subject("versive"), named.Header, named.Data)
	if diff := cmp.Diff(named.Header, stored.Header); diff != "" {
		t.Errorf("passed on (-before +after)\n%s", diff)
	}
	if delete(named.Header, "ce-organization"); !cmp.Equal(plain.Header, named.Header) || plain.Subject("versive") != named.Subject("versive") || !bytes.Equal(plain.Data, named.Data) {
		t.Error("the organization changes more than its header")
	}
	if got := schema.Organization(map[string][]string{"ce-organization": {"\x1b[31m"}}); got != "" {
		t.Errorf("a header of another program is the organization %q", got)
	}
}

func TestValidOrganization(t *testing.T) {
	for name, want := range map[string]bool{
		"a":                     true,
		"acme":                  true,
		"acme-corp-2":           true,
		"4711":                  true,
		strings.Repeat("a", 63): true,
		strings.Repeat("a", 64): false,
		"":                      false,
		"-acme":                 false,
		"acme-":                 false,
		"Acme":                  false,
		"acme_corp":             false,
		"acme.corp":             false,
		"acme corp":             false,
		"acmé":                  false,
		"acme\n":                false,
	} {
		if got := schema.ValidOrganization(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"":                                   false,
		"a":                                  true,
		"msg_2bKq0PZ1vT8xW4nYcR":             true,
		"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~": true,
		strings.Repeat("a", 128):             true,
		strings.Repeat("a", 129):             false,
		"a b":                                false,
		" a":                                 false,
		"a\n":                                false,
		"a\x00":                              false,
		"a\x7f":                              false,
		"\u00e4":                             false,
		"\xff":                               false,
	} {
		if got := schema.ValidID(id); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}
