package main

import (
	"slices"
	"strings"
	"testing"
)

// Ratios and verdicts come from the row that differs in one thing only.
func TestReport(t *testing.T) {
	t.Parallel()
	r := &report{Rounds: 1, Duration: 4, Fsync: []float64{0.3, 0.2}}
	add := func(c testCase, m measurement) {
		c.Size = 8 << 10
		r.Rows = append(r.Rows, row{testCase: c, Median: m, Rounds: []measurement{m}})
	}
	add(testCase{Target: "ingress/embedded", Connections: 64}, measurement{Rate: 8000, P99: 15, CPU: 90, Proof: proof{Accepted: 7, Stored: 7}})
	add(testCase{Target: "ingress/embedded", Connections: 64, Duplicates: 0.1}, measurement{Rate: 4000, P99: 30, CPU: 180})
	add(testCase{Target: "ingress/embedded", Connections: 64, Flood: "signed"}, measurement{Rate: 5, ServicePeak: 601 << 20})
	add(testCase{Target: "ingress/embedded", Connections: 64, Flood: ninefold}, measurement{Rate: 6500, ServicePeak: 200 << 20, Flood: tally{Refused: 9, Seconds: 2}})
	add(testCase{Target: "naive/always", Connections: 64}, measurement{Rate: 4000, P99: 30, CPU: 200})
	add(testCase{Target: "naive/always", Connections: 256}, measurement{Rate: 1, P99: 1, CPU: 1})
	add(testCase{Target: "naive/lazy", Connections: 64}, measurement{Rate: 16_000, P99: 10, CPU: 90})
	add(testCase{Target: "batches-256/always", Connections: 1}, measurement{Rate: 32_000, P99: 10, CPU: 45})
	r.Rows = append(r.Rows, row{testCase: testCase{Target: "plain"}}) // not measured: the run ended early

	table := r.table()
	column := func(name string) int { return slices.Index(table[0], "÷ "+name+": r/s, p99, CPU") }
	if len(table) != 9 || column("naive/cluster") >= 0 {
		t.Errorf("%d lines, want 9, and headings without naive/cluster: %v", len(table), table[0])
	}
	for _, c := range []struct {
		line     int
		baseline string
		want     string
	}{
		{1, "naive/always", "2.00×  0.50×  0.45×"},
		{1, "naive/lazy", "0.50×  1.50×  1.00×"},
		{1, "batches-256/always", "0.25×  1.50×  2.00×"},
		{1, "no resends", ""},
		{2, "no resends", "0.50×  2.00×  2.00×"},
		{2, "naive/always", ""}, // there is none with resends
		{4, "no flood", "0.81×  -  -"},
		{5, "naive/always", ""},
		{8, "naive/always", ""},
	} {
		if got := table[c.line][column(c.baseline)]; got != c.want {
			t.Errorf("%s ÷ %s: got %q, want %q", table[c.line][0], c.baseline, got, c.want)
		}
	}

	want := []string{
		"ingress/embedded flooded signed, 64 connections: in 0 s 0 requests accepted, 0 answered 503, 0 refused, 0 cut; memory 601 MiB, want at most 600; beside it 5.0 requests/s, want more than 0.0: DOES NOT HOLD",
		"ingress/embedded flooded ninefold, 64 connections: in 2 s 0 requests accepted, 0 answered 503, 9 refused, 0 cut; memory 200 MiB, want at most 600; beside it 6500.0 requests/s, want more than 6400.0: holds",
		"ingress/embedded, 64 connections: requests/s 2.00 × naive/always, want at least 2.2: DOES NOT HOLD",
		"ingress/embedded, 64 connections: p99 0.50 × naive/always, want at most 0.6: holds",
		"ingress/embedded, 64 connections: CPU a request 1.00 × naive/lazy, want at most 0.9: DOES NOT HOLD",
		"ingress/embedded 10 % resends, 64 connections: requests/s 0.50 × no resends, want at least 0.7: DOES NOT HOLD",
	}
	if got := r.verdicts(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := r.proven(), "read back 1 streams: 7 events answered 2xx, 7 stored, missing 0, twice 0, never answered 2xx 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	var text, markdown strings.Builder
	r.writeText(&text)
	r.writeMarkdown(&markdown)
	for _, words := range slices.Concat(want, []string{"took 0.20 to 0.30 ms", "2.00×  0.50×  0.45×"}) {
		if !strings.Contains(text.String(), words) || !strings.Contains(markdown.String(), words) {
			t.Errorf("text or Markdown lacks %q:\n%s\n%s", words, &text, &markdown)
		}
	}
}
