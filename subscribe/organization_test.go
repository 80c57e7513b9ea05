package subscribe_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// storeFor stores an event of an organization; "" is none.
func (s *system) storeFor(t *testing.T, organization, id string) {
	t.Helper()
	m, err := schema.Normalize(id, []byte(`{"event_type":"interview.completed","interview":{"id":"interview"},"study":{"id":"study"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.publisher.Publish(t.Context(), m.WithOrganization(organization)); err != nil {
		t.Fatal(err)
	}
}

// A range can be limited to an organization. An erasure has the organization of its
// event, and one of which it is not known is part of every range.
func TestRangeByOrganization(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeFor(t, "acme", "msg_1")
	s.storeFor(t, "globex", "msg_2")
	s.storeFor(t, "", "msg_3")
	s.storeFor(t, "acme", "msg_4")
	const prefix = "versive.interview.completed.study.interview."
	s.erase(t, prefix+"msg_4", 4)
	s.erase(t, prefix+"msg_3", 3)
	eraser := publish.Eraser{JetStream: s.js, Stream: "VERSIVE"}
	if err := eraser.PutTombstone(t.Context(), schema.KindEvent, prefix+"msg_5"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		sel  subscribe.Selection
		want string
	}{
		"all":          {subscribe.Selection{}, "msg_1 acme, msg_2 globex, -msg_4 acme, -msg_3, -msg_5"},
		"acme":         {subscribe.Selection{Organization: "acme"}, "msg_1 acme, -msg_4 acme, -msg_3, -msg_5"},
		"globex":       {subscribe.Selection{Organization: "globex"}, "msg_2 globex, -msg_3, -msg_5"},
		"another":      {subscribe.Selection{Organization: "initech", Last: 3}, ""},
		"headers only": {subscribe.Selection{Organization: "acme", HeadersOnly: true, First: 2}, "-msg_4 acme, -msg_3, -msg_5"},
	} {
		var got []string
		for _, m := range read(t, s.source, test.sel) {
			entry := m.ID
			if m.Erased() {
				entry = "-" + entry
			}
			got = append(got, strings.TrimSpace(entry+" "+m.Organization))
		}
		if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// A handler gets the organization, and a dead letter keeps it.
func TestConsumeOrganization(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.storeFor(t, "acme", "msg_1")
	s.storeFor(t, "", "msg_2")
	var got record
	c := got.consumer()
	c.Event = func(_ context.Context, event schema.Event, m subscribe.Message) error {
		got.add(event.ID + " " + m.Organization)
		return subscribe.ErrPermanent
	}
	start(t, s.source, c)
	s.awaitDone(t, c.Durable)
	if want := []string{"msg_1 acme", "msg_2 "}; !slices.Equal(got.list(), want) {
		t.Errorf("handled %q, want %q", got.list(), want)
	}
	letters := read(t, s.source, subscribe.Selection{Kind: schema.KindDead})
	if len(letters) != 2 || letters[0].Organization != "acme" || letters[1].Organization != "" || len(letters[1].Header["ce-organization"]) > 0 {
		t.Errorf("dead letters: %+v", letters)
	}
}
