package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	rounds := []figures{{"requests/s": 3, "p99 ms": 10}, {"requests/s": 1, "p99 ms": 30}, {"requests/s": 2, "p99 ms": 20}}
	if got, want := median(rounds), (figures{"requests/s": 2, "p99 ms": 20}); !maps.Equal(got, want) {
		t.Errorf("of three: got %+v, want %+v", got, want)
	}
	if got := median(rounds[:2])["requests/s"]; got != 2 {
		t.Errorf("of 3 and 1: got %v, want 2", got)
	}
}

// Ratios and verdicts come from the row that differs in one thing only.
func TestReport(t *testing.T) {
	t.Parallel()
	r := &report{Rounds: 1, Duration: 4}
	add := func(c testCase, f figures) {
		c.Size = 8 << 10
		r.Rows = append(r.Rows, row{testCase: c, Median: f, Rounds: []figures{f}})
	}
	add(testCase{Target: "ingress/embedded", Connections: 64}, figures{"requests/s": 8000, "p99 ms": 15, "CPU µs": 99, "events read back": 7})
	add(testCase{Target: "ingress/embedded", Connections: 64, Other: true}, figures{"requests/s": 10_000, "p99 ms": 30, "CPU µs": 99, "events read back": 8})
	add(testCase{Target: "ingress/embedded", Connections: 64, Duplicates: 0.1}, figures{"requests/s": 4000, "p99 ms": 30, "CPU µs": 198})
	add(testCase{Target: "ingress/embedded", Connections: 64, Forged: 9}, figures{"requests/s": 6500, "p99 ms": 15, "CPU µs": 99, "service MiB": 601})
	add(testCase{Target: "naive/always", Connections: 64}, figures{"requests/s": 4000, "p99 ms": 30, "CPU µs": 198})
	add(testCase{Target: "naive/always", Connections: 256}, figures{"requests/s": 1, "p99 ms": 1, "CPU µs": 1})
	add(testCase{Target: "naive/lazy", Connections: 64}, figures{"requests/s": 16_000, "p99 ms": 10, "CPU µs": 90})
	add(testCase{Target: "batches-256/always", Connections: 1}, figures{"requests/s": 32_000, "p99 ms": 10, "CPU µs": 45})

	columns := r.columns()
	column := func(title string) []string {
		for _, c := range columns {
			if c[0] == title {
				return c[1:]
			}
		}
		return nil
	}
	for title, want := range map[string][]string{
		"target": {
			"ingress/embedded", "ingress/embedded, other build", "ingress/embedded, 10 % resends", "ingress/embedded, 9× forged",
			"naive/always", "naive/always", "naive/lazy", "batches-256/always",
		},
		"requests/s":           {"8000", "10000", "4000", "6500", "4000", "1.00", "16000", "32000"},
		"service MiB":          {"", "", "", "601", "", "", "", ""},
		"failures":             nil,
		"÷ naive/always":       {"2.00 0.50 0.50", "2.50 1.00 0.50", "", "", "", "", "4.00 0.33 0.45", ""},
		"÷ naive/cluster":      nil,
		"÷ batches-256/always": {"0.25 1.50 2.20", "0.31 3.00 2.20", "", "", "", "", "", ""},
		"÷ no resends":         {"", "", "0.50 2.00 2.00", "", "", "", "", ""},
		"÷ none forged":        {"", "", "", "0.81 1.00 1.00", "", "", "", ""},
		"÷ other build":        {"0.80 0.50 1.00", "", "", "", "", "", "", ""},
	} {
		if got := column(title); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", title, got, want)
		}
	}

	want := []string{
		"ingress/embedded, connections=64: requests/s 2.00 × naive/always, want at least 2.4: DOES NOT HOLD",
		"ingress/embedded, connections=64: p99 ms 0.50 × naive/always, want at most 0.5: holds",
		"ingress/embedded, connections=64: CPU µs 1.10 × naive/lazy, want at most 1: DOES NOT HOLD",
		"ingress/embedded, 10 % resends, connections=64: requests/s 0.50 × no resends, want at least 0.7: DOES NOT HOLD",
		"ingress/embedded, 9× forged, connections=64: requests/s 0.81 × none forged, want at least 0.8: holds",
		"ingress/embedded, 9× forged, connections=64: service MiB 601.00, want at most 600: DOES NOT HOLD",
	}
	if got := r.verdicts(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var text strings.Builder
	if err := r.writeText(&text); err != nil {
		t.Fatal(err)
	}
	for _, words := range append(want, "2.00 0.50 0.50", "read back 2 streams", "15 events") {
		if !strings.Contains(text.String(), words) {
			t.Errorf("the text lacks %q:\n%s", words, &text)
		}
	}
}
