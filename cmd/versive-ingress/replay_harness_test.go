package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// fill stores events, msg_<from> to msg_<to>, in any order.
func fill(t testing.TB, url string, from, to int) {
	t.Helper()
	p, err := publish.Open(t.Context(), publish.Config{
		URL: url, Stream: "VERSIVE", Subject: "versive", Replicas: 1, DedupeWindow: 48 * time.Hour, Timeout: embeddedtest.Timeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range 512 {
		wg.Go(func() {
			for n := range numbers {
				m, err := schema.Normalize(fmt.Sprintf("msg_%d", n), interview(fmt.Sprintf("interview_%d", n)))
				if err == nil {
					_, err = p.Publish(t.Context(), m)
				}
				if err != nil {
					t.Errorf("msg_%d: %v", n, err)
				}
			}
		})
	}
	for n := from; n <= to; n++ {
		numbers <- n
	}
	close(numbers)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// erase puts a tombstone on what is stored at a sequence.
func erase(t testing.TB, js jetstream.JetStream, sequence uint64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatal(err)
	}
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: m.Subject, Sequence: sequence}); err != nil {
		t.Fatal(err)
	}
}

func ids(messages []jetstream.Msg) []string {
	var list []string
	for _, m := range messages {
		list = append(list, m.Headers().Get("ce-id"))
	}
	return list
}

const replaySecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// command returns the program as a process of its own, on a broker.
func command(broker string, args ...string) *exec.Cmd {
	cmd := exec.Command("versive-ingress", args...)
	cmd.Env = append(os.Environ(), "INGRESS_NATS_URL="+broker, "INGRESS_SECRETS="+replaySecret)
	return cmd
}

// succeed runs the program and returns what it writes.
func succeed(t testing.TB, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args[1:], err, &log)
	}
	return out.String(), log.String()
}

// createTarget creates a stream to replay to.
func createTarget(t testing.TB, js jetstream.JetStream, storage jetstream.StorageType, name, subject string) {
	t.Helper()
	config := jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: storage}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// endpoint records the ids of the webhooks that it gets, in their order.
type endpoint struct {
	*httptest.Server
	t    testing.TB
	want map[string][]byte // the data, by id

	mu  sync.Mutex
	got []string
}

func newEndpoint(t testing.TB, stored []jetstream.Msg) *endpoint {
	e := &endpoint{t: t, want: make(map[string][]byte)}
	for _, m := range stored {
		e.want[m.Headers().Get("ce-id")] = m.Data()
	}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost { // a dry run looks whether there is one
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	webhook, err := svix.NewWebhook(replaySecret)
	if err != nil {
		panic(err)
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = webhook.Verify(body, r.Header)
	}
	id := r.Header.Get("svix-id")
	if err != nil || !bytes.Equal(body, e.want[id]) || r.Header.Get("Content-Type") != "application/json" {
		e.t.Errorf("%s: %v, %s", id, err, body)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, id)
}

func (e *endpoint) ids() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// lineIDs returns the ids of a file of events, one a line. A line that was cut
// short, and an empty one, are no events.
func lineIDs(t testing.TB, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &event) == nil {
			list = append(list, event.ID)
		}
	}
	return list
}

// requireAll checks that all events came, in their order: what was repeated,
// was repeated in order from one place on.
func requireAll(t testing.TB, want, got []string, repeats int) {
	t.Helper()
	var first []string
	seen := make(map[string]bool)
	for _, id := range got {
		if !seen[id] {
			first = append(first, id)
		}
		seen[id] = true
	}
	if !slices.Equal(first, want) {
		t.Errorf("got %d events, want %d in their order", len(first), len(want))
	}
	if len(got)-len(first) > repeats {
		t.Errorf("%d events are repeated, want at most %d", len(got)-len(first), repeats)
	}
}

// replayState is the content of a checkpoint file.
type replayState struct {
	Spec struct {
		Created time.Time `json:"created"`
	} `json:"spec"`
	Done struct {
		Events     uint64 `json:"events"`
		Erasures   uint64 `json:"erasures"`
		Duplicates uint64 `json:"duplicates"`
		Sequence   uint64 `json:"sequence"`
	} `json:"done"`
	Finished bool `json:"finished"`
}

func readState(file string) (c replayState) {
	text, err := os.ReadFile(file)
	if err == nil {
		_ = json.Unmarshal(text, &c)
	}
	return c
}

// library is a broker with a filled stream, for tests that only read it.
type library struct {
	url    string
	js     jetstream.JetStream
	stored []jetstream.Msg
	events []jetstream.Msg // without the two erasures
}

func newLibrary(t testing.TB, events int) library {
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: "127.0.0.1:0"})
	fill(t, broker.URL(), 1, events)
	l := library{url: broker.URL(), js: embeddedtest.Connect(t, broker.URL())}
	erase(t, l.js, 3)
	erase(t, l.js, 7)
	l.stored = readAll(t, l.js, "VERSIVE")
	l.events = slices.DeleteFunc(slices.Clone(l.stored), func(m jetstream.Msg) bool { return schema.IsTombstone(m.Headers()) })
	return l
}
