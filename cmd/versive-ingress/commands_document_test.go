package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

// console is a block of a document with commands, after "$ ", and their output.
var console = regexp.MustCompile("(?ms)^```console\n(.*?)^```\n")

// The commands in docs/commands.md print what the document shows, beside an ingress
// that has stored nothing before; -update writes what they print.
func TestCommandsDocument(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	launch(t, "versive-ingress", s)
	awaitReady(t, s)
	createConsumer(t, "nats://"+s.NATSListen)
	// The document has the default addresses and directory.
	actual := strings.NewReplacer("127.0.0.1:8080", s.Listen, "127.0.0.1:9090", s.AdminListen, "127.0.0.1:4222", s.NATSListen)
	documented := strings.NewReplacer(s.Listen, "127.0.0.1:8080", s.AdminListen, "127.0.0.1:9090", s.NATSListen, "127.0.0.1:4222", s.DataDir, "./data")
	dir := t.TempDir()
	env := append(os.Environ(), environment(s)...)

	file := filepath.Join("..", "..", "docs", "commands.md")
	document := readText(t, file)
	want := console.ReplaceAllStringFunc(document, func(block string) string {
		var printed strings.Builder
		for command := range strings.SplitSeq("\n"+console.FindStringSubmatch(block)[1], "\n$ ") {
			line, output, _ := strings.Cut(command, "\n")
			if line == "" {
				continue // before the first command
			}
			shell := actual.Replace(line)
			if strings.HasPrefix(line, "versive-ingress doctor") { // the metrics of the streams are up to a second old
				embeddedtest.Await(t, "the metrics have the last event", func() bool {
					return newest(t, s, "versive_ingress_stream_last_event_timestamp_seconds", `{stream="VERSIVE"}`) > newest(t, s, "versive_ingress_last_unauthorized_timestamp_seconds", "")
				})
			}
			if line == "versive-ingress consumers" { // the document's consumer has read everything so far
				fetch(t, embeddedtest.Connect(t, "nats://"+s.NATSListen), "reports")
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec 2>&1; "+shell)
			cmd.Dir, cmd.Env = dir, env
			printed.WriteString("$ " + line + "\n" + documented.Replace(runUntil(t, cmd, output)))
		}
		if diff := cmp.Diff(comparable(block), comparable("```console\n"+printed.String()+"```\n")); diff == "" {
			return block
		}
		return "```console\n" + printed.String() + "```\n"
	})
	if diff := cmp.Diff(want, document); diff != "" {
		if !*update {
			t.Fatalf("docs/commands.md is not up to date; run: go test ./cmd/versive-ingress -run TestCommandsDocument -update\n%s",
				cmp.Diff(comparable(want), comparable(document)))
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newest returns the largest value of a metric of the ingress, of the series with labels.
func newest(t *testing.T, s config.Settings, name, labels string) (largest float64) {
	t.Helper()
	for line := range strings.Lines(metric(s, name)) {
		if !strings.Contains(line, labels) {
			continue
		}
		value, err := strconv.ParseFloat(strings.Fields(line)[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, value)
	}
	return largest
}

// runUntil returns what a command prints. If the documented output ends with ^C, it
// interrupts the command after as many lines.
func runUntil(t *testing.T, cmd *exec.Cmd, documented string) string {
	t.Helper()
	lines := -1
	if before, interrupted := strings.CutSuffix(documented, "^C\n"); interrupted {
		lines = strings.Count(before, "\n")
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for scanner := bufio.NewScanner(output); scanner.Scan(); lines-- {
		text.WriteString(scanner.Text() + "\n")
		if lines == 1 {
			text.WriteString("^C\n")
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // an exit status is documented by the output that explains it
	return text.String()
}

// varying matches what differs from run to run, and what stands for it.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "TIME"},
	{regexp.MustCompile(`\b(msg_)?[A-Z2-7]{26}\b`), "ID"},
	{regexp.MustCompile(`v1,[A-Za-z0-9+/]+=*`), "SIGNATURE"},
	{regexp.MustCompile(`Timestamp: \d+`), "UNIX"},
	{regexp.MustCompile(`\([0-9a-f]{8}\)`), "FINGERPRINT"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms|s|m|h)\b( \(\d+/s\))?`), "DURATION"},
	{regexp.MustCompile(`\b\d+(\.\d+)? [KMGT]iB\b`), "SIZE"},
	{regexp.MustCompile(`version \S+ at`), "VERSION"},
	{regexp.MustCompile(`nats-server \S+`), "VERSION"},
	{regexp.MustCompile(`  +`), "  "}, // columns are as wide as their values
}

// comparable returns a text in which what varies is the same in every run.
func comparable(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}
