package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

var (
	// copied is an example in a document: a marker that names its file, and the
	// block below it.
	copied = regexp.MustCompile("(?m)^<!-- (examples/\\S+) -->\n(?:\n```[a-z]+\n(?s:.*?)^```\n)?")
	// block is a block in a language.
	block = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```\n")
)

// TestExamplesInDocs: the examples in docs/consumers.md are the files in
// docs/examples, which are checked; -update copies them.
func TestExamplesInDocs(t *testing.T) {
	t.Parallel()
	docs := filepath.Join("..", "..", "docs")
	file := filepath.Join(docs, "consumers.md")
	document := readText(t, file)
	languages := map[string]string{".go": "go", ".py": "python", ".ts": "ts"}
	want := copied.ReplaceAllStringFunc(document, func(found string) string {
		name := copied.FindStringSubmatch(found)[1]
		return "<!-- " + name + " -->\n\n```" + languages[filepath.Ext(name)] + "\n" + readText(t, filepath.Join(docs, name)) + "```\n"
	})
	if diff := cmp.Diff(want, document); diff != "" {
		if !*update {
			t.Fatalf("the examples are not up to date; run: go test ./cmd/versive-ingress -run Docs -update\n%s", diff)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// No other block is in a language that only a file's check would check.
	for _, found := range block.FindAllStringSubmatch(copied.ReplaceAllString(want, ""), -1) {
		if language := found[1]; language != "sh" && language != "sql" { // see .ci/acceptance and .ci/docs
			t.Errorf("a block in %s is not copied from a file:\n%s", language, found[2])
		}
	}
	// The Go in README.md is an excerpt.
	example := strings.ReplaceAll("\n"+readText(t, filepath.Join(docs, "examples", "subscribe", "main.go")), "\n\t", "\n")
	for _, found := range block.FindAllStringSubmatch(readText(t, filepath.Join("..", "..", "README.md")), -1) {
		if found[1] == "go" && !strings.Contains(example, "\n"+found[2]) {
			t.Errorf("README.md has Go that is not in docs/examples/subscribe:\n%s", found[2])
		}
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestGoExamples runs the examples in Go against an ingress: they print each
// event once, and the erasure that happens while they run, acknowledge all of
// it, and stop when they are told to.
func TestGoExamples(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./docs/examples/...")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	for _, test := range []struct {
		name, durable string
		want          []string
	}{
		{"natsgo", "reports-go", []string{
			"completed msg_1 study_123 " + sampleInterview + " 2", "completed msg:\"2\"% a.b é i/2 0", "completed msg_3 study_123 i3 0",
			"erased msg_3",
		}},
		{"subscribe", "reports", []string{ // of one study
			"completed msg_1 study_123 " + sampleInterview + " 2", "completed msg_3 study_123 i3 0",
			"erased msg_3",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sys := run(t, newSettings(t))
			js := embeddedtest.Connect(t, sys.BrokerURL())
			for _, webhook := range []struct{ id, body string }{
				{"msg_1", string(sample)},
				{`msg:"2"%`, `{"event_type":"interview.completed","interview":{"id":"i/2"},"study":{"id":"a.b é"}}`},
				{"msg_3", `{"event_type":"interview.completed","interview":{"id":"i3"},"study":{"id":"study_123"}}`},
			} {
				if a := sys.post(t, webhook.id, []byte(webhook.body)); a.Status != 200 {
					t.Fatalf("%s was answered %d", webhook.id, a.Status)
				}
			}

			ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
			defer cancel()
			program := exec.CommandContext(ctx, filepath.Join(bin, test.name))
			program.Env = append(os.Environ(), "NATS_URL="+sys.BrokerURL())
			var log embeddedtest.Log
			program.Stderr = &log
			output, err := program.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for lines := bufio.NewScanner(output); lines.Scan(); {
				got = append(got, lines.Text())
				switch len(got) {
				case len(test.want) - 1:
					eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
					subject := "versive.interview.completed.study_123.i3.msg_3"
					if err := eraser.Erase(ctx, publish.Copy{Kind: schema.KindEvent, Subject: subject, Sequence: 3}); err != nil {
						t.Error(err)
					}
				case len(test.want):
					if err := program.Process.Signal(os.Interrupt); err != nil {
						t.Error(err)
					}
				}
			}
			if err := program.Wait(); err != nil {
				t.Errorf("ended with %v\n%s", err, log.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s\n%s", diff, log.String())
			}
			requireAcknowledged(t, js, test.durable)
		})
	}
}

// requireAcknowledged checks that a durable consumer has been given all there
// is, and has acknowledged it.
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
