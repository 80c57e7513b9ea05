package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// TestAddEventType follows "How to add an event type" in CONTRIBUTING.md: it
// builds the ingress with a type of another shape, which belongs to no
// interview, by adding a Go file and a JSON Schema to package schema and nothing
// else. A webhook of the type that was quarantined before is requeued; events are
// normalized, stored, decoded, tailed, replayed and erased by their study.
func TestAddEventType(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	before := run(t, s)
	if a := before.post(t, "msg_before", studyCreated("msg_before")); a.Outcome != "quarantined" || a.Reason != "unsupported_type" {
		t.Fatalf("an unknown type: %v", a)
	}
	if a := before.post(t, "msg_interview", plantedBody("interview.completed", "i")); a.Outcome != "stored" {
		t.Fatal(a)
	}
	program := withEventTypes(t)
	before.Stop()

	launch(t, program, s)
	awaitReady(t, s)
	do := func(args ...string) string {
		t.Helper()
		out, err := runCommand(t, program, s, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	post := func(id string) sender.Answer {
		t.Helper()
		vendor := sender.Sender{URL: "http://" + s.Listen + s.Path}
		if err := vendor.SignWith(s.Secrets[0]); err != nil {
			t.Fatal(err)
		}
		a, err := vendor.Post(t.Context(), id, time.Now(), studyCreated(id))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := post("msg_after"); a.Outcome != "stored" {
		t.Fatal(a)
	}
	if out := do("quarantine", "requeue", "--all"); !strings.Contains(out, "stored VERSIVE 3 msg_before") {
		t.Errorf("requeue printed %s", out)
	}

	js := embeddedtest.Connect(t, "nats://"+s.NATSListen)
	stored := readAll(t, js, "VERSIVE")[1]
	if want := "versive.study.created.study_1.%.msg_after"; stored.Subject() != want {
		t.Errorf("stored under %s, want %s", stored.Subject(), want)
	}
	header := map[string]string{}
	for name := range stored.Headers() {
		if strings.HasPrefix(name, "ce-") {
			header[name] = stored.Headers().Get(name)
		}
	}
	if diff := cmp.Diff(map[string]string{
		"ce-specversion": "1.0", "ce-id": "msg_after", "ce-type": "com.getversive.study.created", "ce-source": "https://getversive.com/studies/study_1",
		"ce-time": "2024-01-01T00:00:00Z", "ce-datacontenttype": "application/json", "ce-dataschema": "urn:versive-ingress:study.created:1",
	}, header); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
	const canonical = `{"event_type":"study.created","study":{"id":"study_1","title":"msg_after","created_at":"2024-01-01T00:00:00Z",` +
		`"questions":[{"text":"","author":{"name":"Ann","role":"editor"},"more":[1.0]}]}}`
	if got := string(stored.Data()); got != canonical {
		t.Errorf("stored\n%s, want\n%s", got, canonical)
	}
	validateAs(t, filepath.Join(filepath.Dir(program), "..", "schema", "study.created.v1.json"), stored.Data())

	consumed := startPrinting(t, "NATS_URL=nats://"+s.NATSListen, filepath.Join(filepath.Dir(program), "consumer"))
	tailed := startPrinting(t, "INGRESS_NATS_LISTEN="+s.NATSListen, program, "tail", "--since", "1h")
	consumed.expect(t, "created msg_after study_1 2024 editor", "created msg_before study_1 2024 editor")
	tailed.expect(t, "interview.completed study_1 i msg_interview", "study.created study_1 % msg_after", "study.created study_1 % msg_before")

	replayed := func(args ...string) (list []string) {
		t.Helper()
		for line := range strings.Lines(do(append([]string{"replay"}, args...)...)) {
			var event struct{ ID, Type, Subject string }
			if err := json.Unmarshal([]byte(line), &event); err == nil && event.ID != "" {
				list = append(list, event.Type+" "+event.ID+" "+event.Subject)
			}
		}
		return list
	}
	if diff := cmp.Diff([]string{"com.getversive.study.created msg_after ", "com.getversive.study.created msg_before "}, replayed("--type", "study.created")); diff != "" {
		t.Errorf("replayed by type (-want +got)\n%s", diff)
	}
	if got := replayed("--study", "study_1"); len(got) != 3 {
		t.Errorf("replayed by study: %q", got)
	}

	if out := do("erase", "--study", "study_1", "--yes"); !strings.Contains(out, "erased: 2\n") {
		t.Errorf("erase printed %s", out)
	}
	consumed.expect(t, "erased msg_after study_1 ", "erased msg_before study_1 ")
	tailed.expect(t, "study.erased study_1 % msg_after", "study.erased study_1 % msg_before")
	if a := post("msg_after"); a.Outcome != "duplicate" {
		t.Errorf("a resend of what was erased: %v", a)
	}
	if got := holdings(t, js, schema.KindEvent); got != "msg_interview msg_after* msg_before*" {
		t.Errorf("the stream holds %s", got)
	}
}

// studyCreated returns a webhook of a type in testdata/eventtype.txtar.
func studyCreated(title string) []byte {
	return fmt.Appendf(nil, `{"study":{"questions":[{"more":[1.0],"author":{"role":"Editor","name":"Ann"}}],
		"created_at":"2024-01-01 01:00:00+01:00","title":%q,"id":"study_1"},"event_type":"study.created"}`, title)
}

// withEventTypes returns the path of the ingress of buildWithEventTypes.
func withEventTypes(t *testing.T) string {
	t.Helper()
	skipProcesses(t)
	program, err := buildWithEventTypes()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// buildWithEventTypes builds the ingress, and a consumer, as if the files in
// testdata/eventtype.txtar were in the project, and returns the path of the
// ingress. The files are beside its directory.
var buildWithEventTypes = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	archive, err := txtar.ParseFile(filepath.Join("testdata", "eventtype.txtar"))
	if err != nil {
		return "", err
	}
	program, err := exec.LookPath("versive-ingress") // in a directory that testscript removes at the end
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(program), "eventtypes-")
	if err != nil {
		return "", err
	}
	if err := txtar.Write(archive, dir); err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for _, file := range archive.Files {
		replace[filepath.Join(root, file.Name)] = filepath.Join(dir, file.Name)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin+"/", "./cmd/versive-ingress", "./consumer")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(bin, "versive-ingress"), nil
})

// validateAs validates data by the JSON Schema in a file.
func validateAs(t *testing.T, file string, data []byte) {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	compiled, err := compiler.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(value); err != nil {
		t.Errorf("%s refuses the data: %v", file, err)
	}
}

// A printing is a process whose lines are read.
type printing struct {
	lines *bufio.Scanner
	log   *embeddedtest.Log
}

// startPrinting starts a process that is killed when the test ends, or when it
// has taken too long.
func startPrinting(t *testing.T, env, program string, args ...string) printing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := &embeddedtest.Log{}
	cmd.Stderr = log
	cmd.Env = append(cmd.Environ(), env)
	startProcess(t, cmd)
	return printing{bufio.NewScanner(out), log}
}

// expect reads a line for each that is wanted, with single spaces between
// words and without a time before them.
func (p printing) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, want := range want {
		if !p.lines.Scan() {
			t.Fatalf("ended before %q: %v\n%s", want, p.lines.Err(), p.log)
		}
		words := strings.Fields(p.lines.Text())
		if len(words) > 0 && strings.HasSuffix(words[0], "Z") {
			words = words[1:]
		}
		if got := strings.Join(words, " "); got != strings.TrimSpace(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
