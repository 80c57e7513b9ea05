package schema_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

var storedAt = time.Date(2024, 1, 1, 1, 9, 42, 120, time.FixedZone("", 3600))

func structured(t *testing.T, header map[string][]string, data []byte) []byte {
	t.Helper()
	line, err := schema.AppendStructured([]byte("before "), header, data, 42, storedAt)
	if err != nil {
		t.Fatal(err)
	}
	line, ok := bytes.CutPrefix(line, []byte("before "))
	if !ok {
		t.Fatalf("does not append: %s", line)
	}
	if bytes.ContainsAny(line, "\r\n") {
		t.Errorf("more than one line: %q", line)
	}
	return line
}

func TestAppendStructured(t *testing.T) {
	event := normalize(t, []byte(`{"event_type":"interview.completed",
		"interview":{"id":"i \"1\"%","ended_at":"2024-01-01T00:09:41Z","more":[1,`+"\r\n"+`2, "a\nb"]},"study":{"id":"s 1"}}`))
	if !bytes.ContainsAny(event.Data, "\n") {
		t.Fatal("the event has no line break to take away")
	}
	before := bytes.Clone(event.Data)
	line := structured(t, event.Header, event.Data)
	if !bytes.Equal(event.Data, before) {
		t.Error("the event's own data was changed")
	}
	want := `{"specversion":"1.0","id":"` + svixID + `","source":"https://getversive.com/studies/s%201",` +
		`"type":"com.getversive.interview.completed","subject":"i \"1\"%","time":"2024-01-01T00:09:41Z",` +
		`"datacontenttype":"application/json","dataschema":"urn:versive-ingress:interview.completed:1",` +
		`"sequence":"00000000000000000042","storedat":"2024-01-01T00:09:42.00000012Z","data":` +
		strings.NewReplacer("\n", " ", "\r", " ").Replace(string(event.Data)) + `}`
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !jsontext.Value(line).IsValid() {
		t.Error("not valid JSON")
	}
}

// The organization is an extension attribute.
func TestAppendStructuredOrganization(t *testing.T) {
	event := normalize(t, body("", "", "")).WithOrganization("acme")
	line := structured(t, event.Header, event.Data)
	if want := `"dataschema":"urn:versive-ingress:interview.completed:1","organization":"acme","sequence":`; !strings.Contains(string(line), want) {
		t.Errorf("got %s, want %s in it", line, want)
	}
}

// A tombstone has its own type and no data.
func TestAppendStructuredTombstone(t *testing.T) {
	m, err := schema.Tombstone(schema.KindEvent, "versive.interview.completed.s.i.msg_1", 7)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(structured(t, m.Header, m.Data), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"specversion": "1.0", "id": "erased:msg_1:7", "source": "https://getversive.com/studies/s", "type": schema.TypeErased,
		"subject": "i", "sequence": "00000000000000000042", "storedat": "2024-01-01T00:09:42.00000012Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A message that is not an event is refused.
func TestAppendStructuredForeign(t *testing.T) {
	event := normalize(t, body("", "", ""))
	for _, name := range []string{"ce-id", "ce-type"} {
		header := maps.Clone(event.Header)
		delete(header, name)
		if line, err := schema.AppendStructured([]byte("x"), header, event.Data, 1, storedAt); err == nil || string(line) != "x" {
			t.Errorf("without %s: got %s, %v", name, line, err)
		}
	}
	header := maps.Clone(event.Header)
	header["ce-subject"] = []string{"%FF"}
	if _, err := schema.AppendStructured(nil, header, event.Data, 1, storedAt); err == nil || !strings.Contains(err.Error(), "ce-subject") {
		t.Errorf("invalid UTF-8: %v", err)
	}
}
