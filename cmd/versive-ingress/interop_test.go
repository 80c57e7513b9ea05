package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A reading is what a consumer has read from a message, in any language.
type reading struct {
	ID, Type, Source, Interview, Time, Data string
}

// webhooks are events that are hard to read: their ids have to be encoded, or
// they have no time. Each comes with what every consumer has to read.
var webhooks = []struct {
	id, study, interview, endedAt string
	subject, source               string
}{
	{
		"msg_plain", "study_123", "3fa85f64-5717-4562-b3fc-2c963f66afa6", `"2024-01-01 01:09:41.50+01:00"`,
		"versive.interview.completed.study_123.3fa85f64-5717-4562-b3fc-2c963f66afa6.msg_plain", "study_123",
	},
	{
		"msg_ended_at_null", "study_123", "i2", `null`,
		"versive.interview.completed.study_123.i2.msg_ended_at_null", "study_123",
	},
	{
		"msg_study_not_ascii", "研究 é", "über", `"2024-01-01T00:09:41Z"`,
		"versive.interview.completed.%E7%A0%94%E7%A9%B6%20%C3%A9.%C3%BCber.msg_study_not_ascii", "%E7%A0%94%E7%A9%B6%20%C3%A9",
	},
	{
		"msg_wildcards", "a.*.>", "x/../y%2F", `"2024-01-01T00:09:41Z"`,
		"versive.interview.completed.a%2E%2A%2E%3E.x%2F%2E%2E%2Fy%252F.msg_wildcards", "a.%2A.%3E",
	},
	{
		`msg:"100%"/.a`, "study_123", "i5", `"2024-01-01T00:09:41.123456789Z"`,
		"versive.interview.completed.study_123.i5.msg%3A%22100%25%22%2F%2Ea", "study_123",
	},
	{ // will be erased
		"msg_erased", "é é", "i/6", `"2024-01-01T00:09:41Z"`,
		"versive.interview.completed.%C3%A9%20%C3%A9.i%2F6.msg_erased", "%C3%A9%20%C3%A9",
	},
}

// TestInterop posts webhooks, erases the last of the events, and reads the stream
// with nats.go alone, with the CloudEvents SDK and as the AsyncAPI document
// describes it: all read the same.
func TestInterop(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	js := embeddedtest.Connect(t, sys.BrokerURL())

	var want []reading
	var subjects []string
	for _, webhook := range webhooks {
		body := fmt.Appendf(nil, `{"event_type":"interview.completed","interview":{"id":%q,"ended_at":%s,"language":"é"},"study":{"id":%q}}`,
			webhook.interview, webhook.endedAt, webhook.study)
		if a := sys.post(t, webhook.id, body); a.Status != 200 {
			t.Fatalf("%s was answered %d", webhook.id, a.Status)
		}
		event, err := schema.Normalize(webhook.id, body)
		if err != nil {
			t.Fatal(err)
		}
		at := ""
		if webhook.endedAt != "null" {
			parsed, err := time.Parse(`"2006-01-02T15:04:05.999999999Z07:00"`, strings.Replace(webhook.endedAt, " ", "T", 1))
			if err != nil {
				t.Fatal(err)
			}
			at = parsed.UTC().Format(time.RFC3339Nano)
		}
		want = append(want, reading{
			webhook.id, "com.getversive.interview.completed", "https://getversive.com/studies/" + webhook.source, webhook.interview, at, string(event.Data),
		})
		subjects = append(subjects, webhook.subject)
	}
	erased := len(want) - 1
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: subjects[erased], Sequence: uint64(len(want))}); err != nil {
		t.Fatal(err)
	}
	want[erased] = reading{
		ID: "erased:msg_erased:6", Type: schema.TypeErased, Source: want[erased].Source, Interview: want[erased].Interview,
	}

	headers, data := asyncAPIHeaders(t), asyncAPISchema(t, "/components/messages/InterviewCompleted/payload")
	var plain, sdk []reading
	for i, msg := range readDurably(t, js, len(want)) {
		if msg.Subject() != subjects[i] {
			t.Errorf("subject is %s, want %s", msg.Subject(), subjects[i])
		}
		plain = append(plain, readPlain(msg))
		sdk = append(sdk, readSDK(t, msg))

		header := make(map[string]any)
		for name := range msg.Headers() {
			header[name] = msg.Headers().Get(name)
		}
		kind := msg.Headers().Get("ce-type")
		if err := headers[kind].Validate(header); err != nil {
			t.Errorf("%s: headers are not as AsyncAPI says: %v", msg.Subject(), err)
		}
		if kind == schema.TypeErased {
			continue
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(msg.Data()))
		if err != nil {
			t.Fatal(err)
		}
		if err := data.Validate(value); err != nil {
			t.Errorf("%s: data is not as AsyncAPI says: %v", msg.Subject(), err)
		}
	}
	if diff := cmp.Diff(want, plain); diff != "" {
		t.Errorf("nats.go (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(want, sdk); diff != "" {
		t.Errorf("CloudEvents SDK (-want +got)\n%s", diff)
	}
}

// readDurably reads the first n messages with a durable consumer and
// acknowledges them, confirmed.
func readDurably(t *testing.T, js jetstream.JetStream, n int) []jetstream.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	consumer, err := js.CreateConsumer(ctx, "VERSIVE", jetstream.ConsumerConfig{
		Durable: "interop", FilterSubject: "versive.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	var messages []jetstream.Msg
	for range n {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, msg)
	}
	requireAcknowledged(t, js, "interop")
	return messages
}

// readPlain reads a message as docs/consumers.md describes, without the help
// of package schema.
func readPlain(msg jetstream.Msg) reading {
	header := msg.Headers()
	return reading{
		percentDecode(header.Get("ce-id")), header.Get("ce-type"), header.Get("ce-source"),
		percentDecode(header.Get("ce-subject")), header.Get("ce-time"), string(msg.Data()),
	}
}

// readSDK reads it with the CloudEvents SDK, which does not decode attributes.
func readSDK(t *testing.T, msg jetstream.Msg) reading {
	t.Helper()
	message := cloudevents.NewMessage(&nats.Msg{Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data()})
	event, err := binding.ToEvent(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	if err := event.Validate(); err != nil {
		t.Errorf("%s is not a CloudEvent: %v", msg.Subject(), err)
	}
	if len(event.Extensions()) > 0 {
		t.Errorf("%s has extensions: %v", msg.Subject(), event.Extensions())
	}
	at := ""
	if !event.Time().IsZero() {
		at = event.Time().Format(time.RFC3339Nano)
	}
	return reading{percentDecode(event.ID()), event.Type(), event.Source(), percentDecode(event.Subject()), at, string(event.Data())}
}

func percentDecode(value string) string {
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return "not percent-encoded: " + value
	}
	return decoded
}

// asyncAPIHeaders returns the schemas of the headers in the event stream, by
// ce-type.
func asyncAPIHeaders(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	return map[string]*jsonschema.Schema{
		"com.getversive.interview.completed": asyncAPISchema(t, "/components/messages/InterviewCompleted/headers"),
		schema.TypeErased:                    asyncAPISchema(t, "/components/messages/InterviewErased/headers"),
	}
}

// asyncAPISchema compiles the schema at a JSON Pointer of the document.
func asyncAPISchema(t *testing.T, pointer string) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft7)
	compiler.AssertFormat()
	compiled, err := compiler.Compile("../../schema/asyncapi.json#" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}
