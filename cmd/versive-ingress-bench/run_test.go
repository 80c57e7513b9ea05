package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"versive-ingress/publish/embedded/embeddedtest"
)

// A whole run, small: real processes, every kind of HTTP target, all reports.
func TestRun(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd := command()
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs([]string{
		"--targets", "ingress/embedded,naive/lazy,plain", "--connections", "4", "--sizes", "2",
		"--duplicates", "0,0.2", "--rounds", "1", "--duration", "500ms", "--warmup", "50ms", "--out", out,
	})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	for _, words := range []string{"ingress/embedded, 20 % resends", "÷ naive/lazy", "÷ no resends", "read back 4 streams"} {
		if !strings.Contains(stdout.String(), words) {
			t.Errorf("the report lacks %q:\n%s", words, stdout.String())
		}
	}

	text, err := os.ReadFile(filepath.Join(out, "default.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 6 {
		t.Errorf("%d rows, want 6", len(r.Rows))
	}
	processor := 0.0
	for _, row := range r.Rows {
		f := row.Median
		for _, title := range titles {
			brokers := title == "broker µs" || title == "broker MiB"
			none := title == "failures" || title == "forged/s" || title == "log KiB/s" && row.Target != "ingress/embedded" || brokers && row.Target != "naive/lazy"
			// Processor time is counted in ticks, of which a short load on a busy machine may have none.
			if zero := f[title] == 0; zero != none && !(zero && strings.HasSuffix(title, " µs")) {
				t.Errorf("%v: %s %v", row, title, f[title])
			}
		}
		processor += f["CPU µs"]
		if len(row.Rounds) != 1 || f["max ms"] < f["p50 ms"] || f["CPU µs"] != f["service µs"]+f["broker µs"] || (f["events read back"] > 0) != (row.Target != "plain") {
			t.Errorf("%v: %+v", row, f)
		}
	}
	if processor == 0 {
		t.Error("no load has taken any processor time")
	}

	svg, err := os.Open(filepath.Join(out, "default.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	decoder := xml.NewDecoder(svg)
	for err == nil {
		_, err = decoder.Token()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the plot is not XML: %v", err)
	}
	requireNothingLeft(t, out)
}

// Ctrl-C during a load ends all children, and the measurements until then are
// reported.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	var stdout bytes.Buffer
	cmd := command()
	cmd.SetOut(&stdout)
	cmd.SetErr(cancelOn{"round 1 of 1", cancel})
	cmd.SetArgs([]string{
		"--targets", "singles/lazy,batches-16/lazy,naive/cluster", "--connections", "1", "--sizes", "2",
		"--rounds", "1", "--duration", "100ms", "--warmup", "50ms", "--out", out, "--ingress", "unused",
	})
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if !strings.Contains(stdout.String(), "singles/lazy") || strings.Contains(stdout.String(), "naive/cluster") {
		t.Errorf("want a report of the first target alone:\n%s", stdout.String())
	}
	requireNothingLeft(t, out)
}

// cancelOn calls a function when something is written.
type cancelOn struct {
	words string
	do    func()
}

func (c cancelOn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.words)) {
		c.do()
	}
	return len(p), nil
}

// requireNothingLeft requires that a bench has left only reports in its output
// directory, and no child, not even a zombie.
func requireNothingLeft(t *testing.T, out string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(out, "data-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(processes) == 0 {
		t.Fatalf("no processes: %v", err)
	}
	for _, file := range processes {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(out)) {
			t.Errorf("still running: %q", line)
		}
	}
}

// With stored events, the measured ingress starts with the data directory of another.
func TestRunStoredAndForged(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	cmd := command()
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{
		"--targets", "ingress/embedded", "--connections", "4", "--sizes", "2", "--stored", "200", "--forged", "2",
		"--rounds", "1", "--duration", "200ms", "--warmup", "100ms", "--out", out,
	})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "default.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if f := r.Rows[0].Median; f["events read back"] < 201 || f["requests/s"] == 0 || f["forged/s"] == 0 {
		t.Errorf("%+v", f)
	}
}

// A process that ends is reported with the end of its log.
func TestServiceEnds(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "ingress")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no disk\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := command()
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"--targets", "ingress/embedded", "--ingress", program, "--out", t.TempDir()})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "ingress has ended: exit status 3\nno disk") {
		t.Errorf("got %v, want an error with the exit status and the log", err)
	}
}

func TestInvalidFlags(t *testing.T) {
	t.Parallel()
	for args, words := range map[string]string{
		"--preset none":                             "--preset",
		"--targets ingress/nowhere":                 "ingress/nowhere",
		"--targets plain/always":                    "plain/always",
		"--targets naive/embedded":                  "naive/embedded",
		"--targets batches-1001/always":             "batches-1001/always",
		"--targets singles/always --duplicates 0.1": "--duplicates",
		"--targets naive/always --stored 1":         "--stored",
		"--targets naive/always --forged 1":         "--forged",
		"--sizes 1":                                 "--sizes",
		"--connections 0":                           "--connections",
		"--duration 5m":                             "--duration",
		"--rounds 0":                                "--rounds",
		"--rate -1":                                 "--rate",
		"--ingress a,b":                             "--ingress",
	} {
		cmd := command()
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(append(strings.Fields(args), "--out", t.TempDir(), "--ingress", "unused"))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want an error that names %s", args, err, words)
		}
	}
}

// Batches have one publisher, and only an ingress has another build.
func TestCases(t *testing.T) {
	t.Parallel()
	m := matrix{
		targets: []string{"ingress/embedded", "naive/always", "batches-64/always"}, sizes: []int{8}, connections: []int{16, 64},
		stored: []int{0}, forged: []int{0}, duplicates: []float64{0},
	}
	cases, err := m.cases(true)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range cases {
		got = append(got, c.String())
	}
	want := []string{
		"ingress/embedded, 8 KiB, connections=16", "ingress/embedded, other build, 8 KiB, connections=16",
		"naive/always, 8 KiB, connections=16", "batches-64/always, 8 KiB, connections=1",
		"ingress/embedded, 8 KiB, connections=64", "ingress/embedded, other build, 8 KiB, connections=64",
		"naive/always, 8 KiB, connections=64",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Every preset names existing flags and valid cases.
func TestPresets(t *testing.T) {
	t.Parallel()
	for name := range presets {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // before the first measurement
		cmd := command()
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SetArgs([]string{"--preset", name, "--out", t.TempDir(), "--ingress", "unused"})
		if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
