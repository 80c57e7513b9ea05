package embeddedtest_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"testing"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// reports is the consumer under test. It keeps the title of each interview.
type reports struct {
	mu     sync.Mutex
	titles map[string]string // by svix-id; "" if the event was erased
}

func (r *reports) consume(ctx context.Context, source subscribe.Source) error {
	return source.Consume(ctx, subscribe.Consumer{
		Durable: "reports",
		Filter:  schema.Filter{Type: "interview.completed"},
		Event: subscribe.Typed(func(_ context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
			r.keep(m.ID, data.Interview.Title)
			return nil
		}),
		Erasure: func(_ context.Context, _ schema.Subject, m subscribe.Message) error {
			r.keep(m.ID, "")
			return nil
		},
	})
}

func (r *reports) keep(id, title string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kept, ok := r.titles[id]; !ok || kept != "" { // nothing follows an erasure
		r.titles[id] = title
	}
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.titles)
}

// A consumer is tested against a stream: with an event that is sent twice, and with
// its erasure. In a test, t is the test's.
func Example() {
	t := &exampleTB{}
	defer t.end()

	stream := embeddedtest.Start(t)
	r := &reports{titles: map[string]string{}}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.consume(ctx, subscribe.Source{JetStream: stream.JetStream}); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()

	event := schema.InterviewCompleted{
		Type:      "interview.completed",
		Interview: schema.Interview{ID: "interview_1", Title: "Coffee"},
		Study:     schema.Study{ID: "study_123"},
	}
	for range 2 {
		fmt.Printf("%+v\n", stream.Publish("msg_1", event))
	}
	embeddedtest.Await(t, "the report", func() bool { return r.String() == "map[msg_1:Coffee]" })

	stream.Erase("msg_1")
	embeddedtest.Await(t, "the erasure", func() bool { return r.String() == "map[msg_1:]" })
	// Output:
	// {Stream:VERSIVE Sequence:1 Duplicate:false Erased:false}
	// {Stream:VERSIVE Sequence:1 Duplicate:true Erased:false}
}

// exampleTB stands for the *testing.T of a test, which an example does not have.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()                      {}
func (t *exampleTB) Context() context.Context     { return context.Background() }
func (t *exampleTB) Cleanup(f func())             { t.cleanups = append(t.cleanups, f) }
func (t *exampleTB) Error(args ...any)            { log.Print(args...) }
func (t *exampleTB) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (t *exampleTB) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

func (t *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *exampleTB) end() {
	for i := range t.cleanups {
		defer t.cleanups[i]()
	}
}
