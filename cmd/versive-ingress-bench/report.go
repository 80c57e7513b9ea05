package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats-server/v2/server"
)

// A report is the result of a run.
type report struct {
	Started  time.Time `json:"started"`
	Machine  string    `json:"machine"`
	Ingress  []string  `json:"ingress"` // binaries
	Rounds   int       `json:"rounds"`
	Duration float64   `json:"duration_s"` // of the load, in each round
	Rows     []row     `json:"rows"`
}

// A row is a case with the figures of at least one round.
type row struct {
	testCase
	Median figures   `json:"median"`
	Rounds []figures `json:"rounds"`
}

// median returns the median of each figure by itself.
func median(rounds []figures) figures {
	medians := make(figures)
	for title := range rounds[0] {
		var values []float64
		for _, round := range rounds {
			values = append(values, round[title])
		}
		slices.Sort(values)
		n := len(values)
		medians[title] = (values[n/2] + values[(n-1)/2]) / 2
	}
	return medians
}

// find returns the row of a case, or nil.
func (r *report) find(c testCase) *row {
	for i := range r.Rows {
		if r.Rows[i].testCase == c {
			return &r.Rows[i]
		}
	}
	return nil
}

// titles are the figures of the table. Ratios and plot show those of compared.
var (
	titles = []string{
		"requests/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "CPU µs", "service µs", "broker µs", "load µs",
		"service MiB", "broker MiB", "log KiB/s", "ready s", "forged/s", "failures",
	}
	compared = []string{"requests/s", "p99 ms", "CPU µs"}
)

// columns returns the columns of the table, each with its title and a cell for each
// row. It leaves out those without any value.
func (r *report) columns() [][]string {
	var columns [][]string
	add := func(title string, cell func(row) string) {
		column := []string{title}
		for _, row := range r.Rows {
			column = append(column, cell(row))
		}
		if strings.Join(column[1:], "") != "" {
			columns = append(columns, column)
		}
	}
	add("target", func(row row) string { return row.label() })
	add("KiB", func(row row) string { return fmt.Sprint(row.Size >> 10) })
	add("connections", func(row row) string { return fmt.Sprint(row.Connections) })
	for _, title := range titles {
		add(title, func(row row) string { return number(row.Median[title]) })
	}
	for _, baseline := range baselines {
		add("÷ "+baseline, func(row row) string {
			base := r.find(row.baseline(baseline))
			if base == nil || base.testCase == row.testCase {
				return ""
			}
			var ratios []string
			for _, title := range compared {
				ratios = append(ratios, fmt.Sprintf("%.2f", row.Median[title]/base.Median[title]))
			}
			return strings.Join(ratios, " ")
		})
	}
	return columns
}

// number formats v with at least three significant digits, and zero as "".
func number(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.*f", max(0, 2-int(math.Log10(v))), v)
}

// writeText writes the report for people.
func (r *report) writeText(w io.Writer) error {
	fmt.Fprintf(w, "%s; %s\nmedians of %d rounds of %g s, interleaved\n÷: ratios of requests/s, p99 and CPU a request\n\n",
		r.Started.Format(time.DateTime), r.Machine, r.Rounds, r.Duration)
	columns := r.columns()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for line := range columns[0] {
		for _, column := range columns {
			fmt.Fprint(table, column[line], "\t")
		}
		fmt.Fprintln(table)
	}
	table.Flush()
	streams, events := 0, 0.0
	for _, row := range r.Rows {
		for _, round := range row.Rounds {
			streams += min(int(round["events read back"]), 1)
			events += round["events read back"]
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\nread back %d streams: each of the %.0f events that were answered 2xx is stored once, and nothing else\n",
		strings.Join(r.verdicts(), "\n"), streams, events)
	return err
}

// save writes the report as JSON and as a plot, to files of the given name without
// its extension.
func (r *report) save(name string) error {
	text, err := json.Marshal(r, jsontext.WithIndent("  "), json.Deterministic(true))
	return errors.Join(err,
		os.WriteFile(name+".json", text, 0o644),
		os.WriteFile(name+".svg", r.svg(), 0o644))
}

// thisMachine describes what the figures depend on.
func thisMachine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	info, _ := os.ReadFile("/proc/cpuinfo")
	_, model, _ := strings.Cut(string(info), "model name\t: ") // none on some architectures
	model, _, _ = strings.Cut(model, "\n")
	return fmt.Sprintf("%d × %s %s, Linux %s, %s, nats-server %s",
		runtime.NumCPU(), runtime.GOARCH, model, strings.TrimSpace(string(kernel)), runtime.Version(), server.VERSION)
}
