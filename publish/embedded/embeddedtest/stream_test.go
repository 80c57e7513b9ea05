package embeddedtest_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

func TestMain(m *testing.M) { os.Exit(embeddedtest.Run(m)) }

// Whichever way the body is given, what an ingress would store is stored.
func TestPublish(t *testing.T) {
	t.Parallel()
	const body = `{"event_type":"interview.completed","interview":{"id":"i","active_time":569,"transcript":"hello"},"study":{"id":"a b"}}`
	want, err := schema.Normalize("msg_0", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	stream := embeddedtest.Start(t)
	stream.Publish("msg_0", jsontext.Value(body))
	stream.Publish("msg_1", schema.InterviewCompleted{
		Type:      "interview.completed",
		Interview: schema.Interview{ID: "i", ActiveTime: "569", Transcript: "hello"},
		Study:     schema.Study{ID: "a b"},
	})
	events, err := stream.JetStream.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"msg_0", "msg_1"} {
		m, err := events.GetLastMsgForSubject(t.Context(), "versive.interview.completed.a%20b.i."+id)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != string(want.Data) {
			t.Errorf("%s is %s\nwant %s", id, m.Data, want.Data)
		}
		if event, err := schema.Decode(m.Header, m.Data); err != nil || event.ID != id || event.StudyID != "a b" {
			t.Errorf("decoded %+v, %v", event, err)
		}
	}
}

// A body that is not an event fails the test with the reason.
func TestPublishFails(t *testing.T) {
	t.Parallel()
	failing := &exampleTB{}
	defer failing.end()
	stream := embeddedtest.Start(failing)
	for body, want := range map[string]string{
		`{"event_type":"study.deleted"}`:                              "unsupported_type",
		`{"event_type":"interview.completed","interview":{"id":"i"}}`: "study",
	} {
		failure := func() (failure any) {
			defer func() { failure = recover() }()
			stream.Publish("msg_1", jsontext.Value(body))
			return nil
		}()
		if !strings.Contains(fmt.Sprint(failure), want) {
			t.Errorf("%s: the test fails with %v, want %q in it", body, failure, want)
		}
	}
}

func TestFreeAddress(t *testing.T) {
	t.Parallel()
	first := embeddedtest.FreeAddress(t)
	listener, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for range 1000 { // all that the process has, and again
		if embeddedtest.FreeAddress(t) == first {
			t.Fatalf("%s is taken", first)
		}
	}
}
