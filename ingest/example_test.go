package ingest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/ingest"
	"versive-ingress/schema"
)

// printer is a stand-in for a publisher. A real one returns a receipt only after
// the message is durably stored.
type printer struct{}

func (printer) Publish(_ context.Context, m schema.Message) (schema.Receipt, error) {
	fmt.Println(m.Subject("versive"))
	return schema.Receipt{Stream: "VERSIVE", Sequence: 42}, nil
}

func ExampleNew() {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	handler, err := ingest.New(ingest.Config{
		Path:        "/webhooks/versive",
		Secrets:     []string{secret},
		Tolerance:   5 * time.Minute,
		MaxBody:     8 << 20,
		MaxInflight: 256 << 20,
		Publisher:   printer{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(handler)
	defer server.Close()

	// The sender signs and posts an event.
	body := `{"event_type":"interview.completed","interview":{"id":"int_1"},"study":{"id":"study_123"}}`
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	at := time.Now()
	signature, err := webhook.Sign("msg_1", at, []byte(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	request, err := http.NewRequest(http.MethodPost, server.URL+"/webhooks/versive", strings.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	request.Header.Set("Svix-Id", "msg_1")
	request.Header.Set("Svix-Timestamp", strconv.FormatInt(at.Unix(), 10))
	request.Header.Set("Svix-Signature", signature)
	response, err := server.Client().Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(response.Status, string(answer))
	// Output:
	// versive.interview.completed.study_123.int_1.msg_1
	// 200 OK {"outcome":"stored","stream":"VERSIVE","sequence":42}
}
