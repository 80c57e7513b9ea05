package schema_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"versive-ingress/schema"
)

// stored is a message as a stream has it.
type stored struct {
	kind    schema.Kind
	subject string
	header  map[string][]string
	data    []byte
}

// store returns a message as a stream has it.
func store(m schema.Message) stored {
	s := stored{m.Kind, m.Subject("versive"), maps.Clone(m.Header), m.Data}
	if m.ID != "" {
		s.header["Nats-Msg-Id"] = []string{m.ID}
	}
	return s
}

// Whatever an ingress, a consumer or an erasure stores agrees; what is changed does not, nor
// does what another program has stored.
func TestVerify(t *testing.T) {
	event := normalize(t, body("", "", ""))
	raw := schema.Quarantine("msg.1", []byte("{"), &schema.Error{Reason: schema.Malformed}, map[string][]string{"Svix-Id": {"msg.1"}})
	dead := schema.DeadLetter(schema.Dead{Consumer: "reports", Reason: "no", ID: event.ID, Subject: event.Subject("versive"), Sequence: 7, Deliveries: 1}, event.Header, event.Data)
	foreign := schema.DeadLetter(schema.Dead{Consumer: "reports", ID: "VERSIVE-8", Subject: "versive.%%", Sequence: 8}, nil, []byte("x"))
	tombstone := func(m schema.Message) schema.Message {
		m, err := schema.Tombstone(m.Kind, m.Subject("versive"), 7)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	deadTombstone := schema.DeadLetter(schema.Dead{Consumer: "reports", Reason: "no", ID: event.ID, Subject: event.Subject("versive"), Sequence: 8}, tombstone(event).Header, nil)

	named := normalize(t, body("", "", "")).WithOrganization("acme")

	for _, m := range []schema.Message{event, named, raw, dead, schema.Requeue("reports", event.ID, 3), foreign, deadTombstone, tombstone(event), tombstone(raw), tombstone(dead)} {
		s := store(m)
		s.header["traceparent"], s.header["Nats-Expected-Last-Subject-Sequence"] = []string{"00-1"}, []string{"0"}
		if err := schema.Verify(s.kind, s.subject, s.header, s.data); err != nil {
			t.Errorf("%s: %v", s.subject, err)
		}
	}
	noID := store(event)
	delete(noID.header, "Nats-Msg-Id")
	nonce := store(tombstone(event))
	nonce.header["Nats-Msg-Id"][0] += ":nonce"
	for _, s := range []stored{noID, nonce} {
		if err := schema.Verify(s.kind, s.subject, s.header, s.data); err != nil {
			t.Errorf("%s: %v", s.subject, err)
		}
	}

	replace := func(from, to string) func(*stored) {
		return func(s *stored) { s.subject = strings.Replace(s.subject, from, to, 1) }
	}
	set := func(name, value string) func(*stored) {
		return func(s *stored) { s.header[name] = []string{value} }
	}
	for name, test := range map[string]struct {
		of     schema.Message
		change func(*stored)
		want   string // in the error
	}{
		"another interview":        {event, replace(".i.", ".i2."), "the subject does not agree with the data"},
		"another type":             {event, replace(".completed.", ".started."), "the subject does not agree with the data"},
		"another id":               {event, replace(schema.Escape(event.ID), "msg_9"), "ce-id does not agree"},
		"no id":                    {event, replace(schema.Escape(event.ID), "%%"), "not a percent-encoded id"},
		"short":                    {event, func(s *stored) { s.subject = "versive.hello" }, "the subject does not agree with the data"},
		"another study's source":   {event, set("ce-source", "https://getversive.com/studies/another"), "ce-source does not agree"},
		"a later version":          {event, set("ce-dataschema", "urn:versive-ingress:interview.completed:2"), "ce-dataschema does not agree"},
		"another time":             {event, set("ce-time", "2020-01-01T00:00:00Z"), "ce-time does not agree"},
		"an organization's name":   {event, set("ce-organization", "ACME"), "ce-organization does not agree"},
		"another message id":       {event, set("Nats-Msg-Id", "msg_9"), "Nats-Msg-Id does not agree"},
		"data of no event":         {event, func(s *stored) { s.data = []byte(`{"event_type":"SECRET"}`) }, "unsupported_type"},
		"no data":                  {event, func(s *stored) { s.data = nil }, "malformed"},
		"a quarantined id":         {raw, replace("msg%2E1", "msg_9"), "Ingress-Http-Svix-Id is not the id"},
		"a quarantined subject":    {raw, replace("msg%2E1", "a.msg%2E1"), "the subject does not agree"},
		"a dead letter's id":       {dead, replace(schema.Escape(event.ID), "msg_9"), "Ingress-Dead-Subject has another id"},
		"a dead letter's subject":  {dead, replace(".reports.", ".reports.more."), "want <prefix>.<consumer>.<id>"},
		"a dead letter's sequence": {dead, set("Ingress-Dead-Sequence", "9"), "Nats-Msg-Id does not agree"},
		"a request's subject":      {schema.Requeue("reports", event.ID, 3), replace(".requeue.", "."), "the subject does not agree"},
		"a tombstone with data":    {tombstone(event), func(s *stored) { s.data = []byte("x") }, "has data"},
		"a tombstone's subject":    {tombstone(event), replace(".i.", ".i2."), "ce-subject does not agree"},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(test.of)
			test.change(&s)
			err := schema.Verify(s.kind, s.subject, s.header, s.data)
			if err == nil || errors.Is(err, schema.ErrForeign) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	for _, m := range []schema.Message{event, raw, dead} {
		if err := schema.Verify(m.Kind, m.Subject("versive"), map[string][]string{"Nats-Msg-Id": {m.ID}}, m.Data); !errors.Is(err, schema.ErrForeign) {
			t.Errorf("%s: %v", m.Subject("versive"), err)
		}
	}
}
