package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// TestExamples runs the consumers in docs/examples as processes: those in Python
// and TypeScript where their NATS client is installed.
func TestExamples(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs(filepath.Join("..", "..", "docs", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "./...")
	build.Dir = examples
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range []example{
		{durable: "reports", oneStudy: true, command: []string{filepath.Join(bin, "subscribe")}},
		{durable: "reports-go", command: []string{filepath.Join(bin, "natsgo")}},
		{
			durable: "reports-python",
			command: []string{"python3", filepath.Join(examples, "consumer.py")},
			needs:   []string{"python3", "-c", "import nats, nkeys"},
		},
		{
			durable: "reports-typescript",
			command: []string{"node", filepath.Join(examples, "consumer.ts")},
			needs:   []string{"node", "--input-type=module", "--eval", `import "@nats-io/transport-node"; import "@nats-io/jetstream"`},
		},
	} {
		t.Run(e.durable, func(t *testing.T) {
			t.Parallel()
			if len(e.needs) > 0 {
				probe := exec.Command(e.needs[0], e.needs[1:]...)
				probe.Dir = examples
				if err := probe.Run(); err != nil {
					t.Skipf("NOT CHECKED: the NATS client is not installed: %v", err)
				}
			}
			t.Run("reads", e.reads)
			t.Run("stops", e.stops)
			t.Run("ends", e.ends)
			t.Run("resumes", e.resumes)
		})
	}
}

// An example is a consumer in docs/examples.
type example struct {
	durable  string
	oneStudy bool // reads study_123 alone
	command  []string
	needs    []string // a command that succeeds where the example can run
}

// start starts the example for the test, with what it prints going to stdout.
func (e example) start(t *testing.T, stdout io.Writer, env ...string) (program *exec.Cmd, log *embeddedtest.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*embeddedtest.Timeout)
	t.Cleanup(cancel)
	program, log = exec.CommandContext(ctx, e.command[0], e.command[1:]...), new(embeddedtest.Log)
	program.Dir = t.TempDir()
	program.Env = append(os.Environ(), env...)
	program.Stdout, program.Stderr = stdout, log
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	return program, log
}

// reads: with the key of a subscriber, the example prints each event once, and the
// erasure that happens while it runs. It acknowledges all of it.
func (e example) reads(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t)
	_, js := u.connect(t, sys.BrokerURL(), u.operator)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, Discard: jetstream.DiscardNew, AllowDirect: true,
	}); err != nil {
		t.Fatal(err)
	}
	for _, webhook := range []struct{ id, body string }{
		{"msg_1", string(sample)},
		{`msg:"2"%`, `{"event_type":"interview.completed","interview":{"id":"i/2","ID":"unknown","parsed_conversation_json":[{"role":"user","content":"\ud83d"}]},"study":{"id":"a.b é"}}`},
		{"msg_3", `{"event_type":"interview.completed","interview":{"id":"i3"},"study":{"id":"study_123","Id":"unknown"}}`},
	} {
		if a := sys.post(t, webhook.id, []byte(webhook.body)); a.Status != 200 {
			t.Fatalf("%s was answered %d", webhook.id, a.Status)
		}
	}
	want := []string{
		"completed msg_1 study_123 " + sampleInterview + " 2",
		`completed msg:"2"% a.b é i/2 1`,
		"completed msg_3 study_123 i3 0",
		"erased msg_3",
	}
	if e.oneStudy {
		want = slices.Delete(want, 1, 2)
	}

	output, stdout := io.Pipe()
	program, log := e.start(t, stdout, "NATS_URL="+sys.BrokerURL(), "NATS_NKEY="+u.subscriber)
	ended := make(chan error, 1)
	go func() {
		ended <- program.Wait()
		stdout.Close()
	}()
	var got []string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		got = append(got, lines.Text())
		switch len(got) {
		case len(want) - 1:
			eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
			subject := "versive.interview.completed.study_123.i3.msg_3"
			if err := eraser.Erase(t.Context(), publish.Copy{Kind: schema.KindEvent, Subject: subject, Sequence: 3}); err != nil {
				t.Error(err)
			}
		case len(want):
			if err := program.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v\n%s", err, log.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s\n%s", diff, log.String())
	}
	requireAcknowledged(t, js, e.durable)
}

// stops: on SIGTERM the example acknowledges what is in progress, and leaves the rest to
// others, also what it has fetched.
func (e example) stops(t *testing.T) {
	t.Parallel()
	const count = 200
	stream := embeddedtest.Start(t)
	for i := range count {
		publishReport(stream, fmt.Sprint("msg_", i), strings.Repeat("i", 200))
	}

	// A pipe that is full, so that the example is about to handle an event until the
	// pipe is read. There is room for some lines, not for those of all events.
	output, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	if err := stdout.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	filling, err := stdout.Write(make([]byte, 1<<20))
	if err == nil {
		t.Fatal("the pipe took a megabyte")
	}
	if _, err := io.ReadFull(output, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	program, log := e.start(t, stdout, "NATS_URL="+stream.URL)
	stdout.Close()
	embeddedtest.Await(t, "an event is acknowledged", func() bool {
		consumer, err := stream.JetStream.Consumer(t.Context(), "VERSIVE", e.durable)
		return err == nil && consumer.CachedInfo().AckFloor.Consumer > 0
	})
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(output)
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, log.String())
	}
	handled := uint64(bytes.Count(text[filling-4096:], []byte("\n")))
	consumer, err := stream.JetStream.Consumer(t.Context(), "VERSIVE", e.durable)
	if err != nil {
		t.Fatal(err)
	}
	info := consumer.CachedInfo()
	batch, err := consumer.FetchNoWait(count)
	if err != nil {
		t.Fatal(err)
	}
	others := uint64(0) // that another process can have at once
	for range batch.Messages() {
		others++
	}
	if handled == count || info.AckFloor.Consumer != handled || handled+others < count-1 || info.NumRedelivered > 0 {
		t.Errorf("of %d events %d were handled, %d acknowledged, %d are left for others, %d were redelivered\n%s",
			count, handled, info.AckFloor.Consumer, others, info.NumRedelivered, log.String())
	}
}

// ends: the example ends with an error when its consumer or the stream is deleted.
func (e example) ends(t *testing.T) {
	t.Parallel()
	for _, deleted := range []string{"consumer", "stream"} {
		t.Run(deleted, func(t *testing.T) {
			t.Parallel()
			stream := embeddedtest.Start(t)
			publishReport(stream, "msg_1", "i1")
			program, log := e.start(t, nil, "NATS_URL="+stream.URL)
			embeddedtest.Await(t, "the event is acknowledged", func() bool {
				consumer, err := stream.JetStream.Consumer(t.Context(), "VERSIVE", e.durable)
				return err == nil && consumer.CachedInfo().AckFloor.Stream == 1
			})
			var err error
			if deleted == "consumer" {
				err = stream.JetStream.DeleteConsumer(t.Context(), "VERSIVE", e.durable)
			} else {
				err = stream.JetStream.DeleteStream(t.Context(), "VERSIVE")
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := program.Wait(); err == nil || !program.ProcessState.Exited() || !strings.Contains(log.String(), "not found") {
				t.Errorf("ended with %v\n%s", err, log.String())
			}
		})
	}
}

// resumes: the example continues when another server of a cluster leads its consumer,
// and when that server is lost.
func (e example) resumes(t *testing.T) {
	t.Parallel()
	brokers := embeddedtest.StartCluster(t, t.TempDir())
	cfg := publish.Config{Stream: "VERSIVE", Subject: "versive", Replicas: 3, DedupeWindow: 48 * time.Hour, Timeout: 20 * time.Second}
	cfg.URL = brokers[0].URL() // the client learns those of the others
	publisher, err := publish.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publisher.Close)
	js := embeddedtest.Connect(t, cfg.URL)
	var consumer *jetstream.ConsumerInfo
	handles := func(sequence uint64) {
		t.Helper()
		event, err := schema.Normalize(fmt.Sprint("msg_", sequence), interview(fmt.Sprint("i", sequence)))
		if err != nil {
			t.Fatal(err)
		}
		embeddedtest.Await(t, "an event is stored", func() bool {
			_, err := publisher.Publish(t.Context(), event)
			return err == nil
		})
		embeddedtest.Await(t, "an event is acknowledged", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			c, err := js.Consumer(ctx, "VERSIVE", e.durable)
			if err == nil {
				consumer = c.CachedInfo()
			}
			return err == nil && consumer.AckFloor.Stream >= sequence
		})
	}

	program, log := e.start(t, nil, "NATS_URL="+cfg.URL)
	handles(1)
	before := consumer.Cluster.Leader
	if _, err := js.Conn().Request("$JS.API.CONSUMER.LEADER.STEPDOWN.VERSIVE."+e.durable, nil, embeddedtest.Timeout); err != nil {
		t.Fatal(err)
	}
	handles(2)
	if consumer.Cluster.Leader == before {
		t.Errorf("%s leads the consumer still", before)
	}
	for i, broker := range brokers {
		if fmt.Sprint("node-", i) == consumer.Cluster.Leader {
			broker.Stop()
		}
	}
	handles(3)
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, log.String())
	}
}

// requireAcknowledged checks that a durable consumer was delivered everything, and
// that all of it is acknowledged.
func requireAcknowledged(t *testing.T, js jetstream.JetStream, durable string) {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), "VERSIVE", durable)
	if err != nil {
		t.Fatal(err)
	}
	if info := consumer.CachedInfo(); info.NumPending != 0 || info.NumAckPending != 0 {
		t.Errorf("consumer %s: %d messages more, %d not acknowledged", durable, info.NumPending, info.NumAckPending)
	}
}

func publishReport(stream *embeddedtest.Stream, id, interview string) {
	stream.Publish(id, schema.InterviewCompleted{
		Type:      "interview.completed",
		Interview: schema.Interview{ID: interview},
		Study:     schema.Study{ID: "study_123"},
	})
}
