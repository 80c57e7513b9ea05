package subscribe_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
)

var soakEvents = flag.Int("soak.events", 800, "how many events TestSoak sends; make soak sends 100,000")

var soakKinds = []string{"transaction", "plain", "bare"}

// TestSoak sends events with resends, over HTTP, while consumers of three
// kinds run, which are killed and restarted at random. In the end each has done its
// work for exactly the ids that were answered 2xx.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	handler, err := ingest.New(ingest.Config{
		Path: "/", Secrets: []string{secret}, Tolerance: 5 * time.Minute,
		MaxBody: 1 << 20, MaxInflight: 64 << 20, Publisher: s.publisher,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()

	dir := t.TempDir()
	file := func(kind string) string { return filepath.Join(dir, kind) }
	finish := make(chan struct{})
	var killers sync.WaitGroup
	var kills atomic.Int64
	for _, kind := range soakKinds {
		killers.Go(func() {
			for {
				child := startChild(t, kind, s.URL(), file(kind), "")
				select {
				case <-finish: // the last one handles the rest
					s.awaitHandled(t, kind)
					kill(child)
					return
				case <-time.After(100*time.Millisecond + rand.N(500*time.Millisecond)):
					kill(child)
					kills.Add(1)
				}
			}
		})
	}

	began := time.Now()
	accepted, resends := send(t, server, secret, *soakEvents)
	sent := time.Since(began)
	close(finish)
	killers.Wait()

	if len(accepted) != *soakEvents {
		t.Errorf("%d of %d events were accepted", len(accepted), *soakEvents)
	}
	t.Logf("%d events and %d resends in %v, %d kills, all handled after %v", *soakEvents, resends, sent.Round(time.Millisecond), kills.Load(), time.Since(began).Round(time.Millisecond))
	for _, kind := range soakKinds {
		missing, again := requireDone(t, kind, file(kind), accepted)
		t.Logf("%-11s of %d ids answered 2xx: %d missing, work repeated %d times", kind, len(accepted), missing, again)
	}
}

// send posts n events from many senders, resends one in ten of them, immediately or
// later, and returns the ids that were answered 2xx.
func send(t *testing.T, server *httptest.Server, secret string, n int) (accepted map[string]bool, resends int64) {
	t.Helper()
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	post := func(id, interview string) int {
		body := fmt.Appendf(nil, `{"event_type":"interview.completed","interview":{"id":%q},"study":{"id":"study"}}`, interview)
		now := time.Now()
		signature, err := webhook.Sign(id, now, body)
		if err != nil {
			panic(err)
		}
		request, err := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		request.Header.Set("Svix-Id", id)
		request.Header.Set("Svix-Timestamp", strconv.FormatInt(now.Unix(), 10))
		request.Header.Set("Svix-Signature", signature)
		response, err := server.Client().Do(request)
		if err != nil {
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}

	accepted = make(map[string]bool)
	var mu sync.Mutex
	var again atomic.Int64
	var next atomic.Int64
	var senders sync.WaitGroup
	for range 32 {
		senders.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				id, interview := fmt.Sprint("msg_", i), fmt.Sprint("interview_", i%(n/2+1))
				for deadline := time.Now().Add(embeddedtest.Timeout); post(id, interview) != http.StatusOK; {
					if time.Now().After(deadline) {
						t.Errorf("%s is not accepted", id)
						return
					}
					time.Sleep(10 * time.Millisecond) // then the sender resends it
				}
				mu.Lock()
				accepted[id] = true
				mu.Unlock()
				if i%10 == 0 {
					old := rand.N(i) + 1
					again.Add(1)
					post(fmt.Sprint("msg_", old), fmt.Sprint("interview_", old%(n/2+1)))
				}
			}
		})
	}
	senders.Wait()
	// If the event had not been sent before, the resend is its first delivery.
	return accepted, again.Load()
}

// awaitHandled waits until a consumer has handled what is in the stream.
func (s *system) awaitHandled(t testing.TB, durable string) {
	t.Helper()
	within := embeddedtest.Timeout + time.Duration(*soakEvents)*5*time.Millisecond
	for deadline := time.Now().Add(within); !s.isDone(t, durable); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s has not handled everything", durable)
			return
		}
	}
}
