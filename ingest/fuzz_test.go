package ingest_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// FuzzHandler sends arbitrary requests. None must make the handler panic, and a
// 2xx answer requires exactly one published message, under an id that the svix
// library verifies for the bytes that arrived.
//
// The fuzzer cannot sign, so sign is a bit set of what to add: bit 0 adds signed
// Svix headers, bit 1 signed Webhook headers, bit 2 chunks the body, and bit 7
// selects a small body limit.
func FuzzHandler(f *testing.F) {
	body := []byte(event(""))
	for _, seed := range []struct {
		line, header, id string
		body             []byte
		sign             byte
	}{
		{"POST " + webhookPath, "", "msg_1", body, 1},
		{"POST " + webhookPath, "", "msg_1", body, 2},
		{"POST " + webhookPath, "", "msg_1", body, 1 | 4},
		{"POST " + webhookPath, "", "msg_1", []byte("{"), 1},
		{"POST " + webhookPath, "", "*.>", nil, 2},
		{"POST " + webhookPath, "", strings.Repeat("m", 129), body, 1},
		{"POST " + webhookPath, "Svix-Id: msg_stray", "msg_1", body, 2},
		{"POST " + webhookPath, "Svix-Id: msg_stray\r\nSvix-Timestamp: 1\r\nSvix-Signature: v1,AAAA", "msg_1", body, 2},
		{"POST " + webhookPath, "Svix-Id: ", "msg_1", body, 1 | 2},
		{"POST " + webhookPath, "Webhook-Id: msg_2", "msg_1", body, 1 | 2},
		{"POST " + webhookPath, "Content-Encoding: gzip", "msg_1", body, 1},
		{"POST " + webhookPath, "Nats-Msg-Id: x", "msg_1", body, 1},
		{"POST " + webhookPath, "Content-Type: \x80", "msg_1", []byte("{}"), 1},
		{"POST " + webhookPath, "Content-Length: 3", "msg_1", body, 1},
		{"POST " + webhookPath, "Transfer-Encoding: chunked", "msg_1", []byte("1\r\n{\r\n0\r\n\r\n"), 1},
		{"POST " + webhookPath + "?x", "", "msg_1", body, 0},
		{"GET " + webhookPath, "", "msg_1", body, 1},
		{"PUT /webhooks/%76ersive", "", "msg_1", body, 1},
		{"OPTIONS *", "", "msg_1", nil, 0},
	} {
		f.Add(seed.line, seed.header, seed.id, seed.body, seed.sign)
	}

	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		f.Fatal(err)
	}
	var handlers [2]*ingest.Handler
	var published []schema.Message
	for size := range byte(2) { // the second with a body limit that the fuzzer reaches
		if handlers[size], err = ingest.New(ingest.Config{
			Path: webhookPath, Secrets: []string{otherSecret, secret}, Tolerance: time.Minute,
			MaxBody: [...]int64{maxBody, 200}[size], MaxInflight: maxInflight,
			Now: func() time.Time { return now },
			Publisher: fake{func(_ context.Context, m schema.Message) (schema.Receipt, error) {
				m.Data = bytes.Clone(m.Data) // the handler reuses it
				published = append(published, m)
				return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
			}},
		}); err != nil {
			f.Fatal(err)
		}
		handlers[size].RejectImmediately()
	}

	f.Fuzz(func(t *testing.T, line, header, id string, body []byte, flags byte) {
		text := line + " HTTP/1.1\r\nHost: ingress.test\r\n"
		if header != "" {
			text += header + "\r\n"
		}
		for bit, prefix := range []string{"Svix", "Webhook"} {
			if flags&(1<<bit) != 0 {
				text += prefix + "-Id: " + id + "\r\n" + prefix + "-Timestamp: " + unix(now) + "\r\n" +
					prefix + "-Signature: " + sign(t, secret, id, now, string(body)) + "\r\n"
			}
		}
		if flags&4 != 0 {
			text += "Transfer-Encoding: chunked\r\n\r\n" + chunk(string(body)) + "0\r\n\r\n"
		} else {
			text += "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + string(body)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		var read bytes.Buffer
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, &read), r.Body}
		sent := r.Header.Clone()

		published = nil
		w := httptest.NewRecorder()
		handlers[flags>>7].ServeHTTP(w, r)

		if w.Code/100 != 2 {
			if len(published) > 0 {
				t.Fatalf("%d was answered for a published message", w.Code)
			}
			return
		}
		if len(published) != 1 {
			t.Fatalf("%d was answered for %d published messages", w.Code, len(published))
		}
		m := published[0]
		if err := webhook.VerifyIgnoringTimestamp(read.Bytes(), sent); err != nil {
			t.Fatalf("%d was answered, but the request does not verify: %v", w.Code, err)
		}
		// The published id is the signed one if the request still verifies with it.
		prefix := "Webhook"
		if sent.Get("Svix-Id") != "" && sent.Get("Svix-Timestamp") != "" && sent.Get("Svix-Signature") != "" {
			prefix = "Svix"
		}
		sent.Set(prefix+"-Id", m.ID)
		if err := webhook.VerifyIgnoringTimestamp(read.Bytes(), sent); err != nil {
			t.Fatalf("published under %q, which does not verify: %v", m.ID, err)
		}
		seconds, err := strconv.ParseInt(sent.Get(prefix+"-Timestamp"), 10, 64)
		if err != nil || seconds < now.Unix()-60 || seconds > now.Unix()+60 {
			t.Fatalf("accepted with the timestamp %q", sent.Get(prefix+"-Timestamp"))
		}
		if !schema.ValidID(m.ID) {
			t.Fatalf("published under %q", m.ID)
		}
		if m.Kind == schema.KindQuarantine && !bytes.Equal(m.Data, read.Bytes()) {
			t.Fatalf("quarantined %q, which is not the body", m.Data)
		}
	})
}
