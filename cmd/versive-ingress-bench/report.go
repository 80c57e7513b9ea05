package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// A report is what a run of the bench found out.
type report struct {
	Started  time.Time `json:"started"`
	Machine  machine   `json:"machine"`
	Rounds   int       `json:"rounds"`
	Duration float64   `json:"duration_s"` // of the load, in each round
	Fsync    []float64 `json:"fsync_ms"`   // append of 8 KiB and fsync: the median in each round
	Rows     []row     `json:"rows"`
}

// A row is a case with its measurements.
type row struct {
	testCase
	Median measurement   `json:"median"`
	Rounds []measurement `json:"rounds"`
}

// find returns the row of a case that was measured.
func (r *report) find(c testCase) *row {
	for i := range r.Rows {
		if r.Rows[i].testCase == c && len(r.Rows[i].Rounds) > 0 {
			return &r.Rows[i]
		}
	}
	return nil
}

// compare returns the row that a row is measured against, or nil.
func (r *report) compare(of testCase, b baseline) *row {
	base := b.of(of)
	if base == of {
		return nil
	}
	return r.find(base)
}

// usedBaselines are those that at least one row can be compared with.
func (r *report) usedBaselines() []baseline {
	var used []baseline
	for _, b := range baselines {
		for _, row := range r.Rows {
			if r.compare(row.testCase, b) != nil {
				used = append(used, b)
				break
			}
		}
	}
	return used
}

// table returns the heading and the cells of all rows.
func (r *report) table() [][]string {
	used := r.usedBaselines()
	heading := []string{"target", "body", "conns", "requests/s", "p50 ms", "p99", "p99.9", "max", "CPU µs", "service", "broker", "load", "load %", "MiB service", "broker", "log KiB/s", "ready s", "failures"}
	for _, b := range used {
		heading = append(heading, "÷ "+b.name+": r/s, p99, CPU")
	}
	table := [][]string{heading}
	for _, row := range r.Rows {
		if len(row.Rounds) == 0 {
			continue // the run ended early
		}
		m := row.Median
		cells := []string{
			row.label(), kib(row.Size), fmt.Sprint(row.Connections),
			number(m.Rate), number(m.P50), number(m.P99), number(m.P999), number(m.Max),
			number(m.CPU), number(m.ServiceCPU), number(m.BrokerCPU), number(m.LoadCPU), fmt.Sprintf("%.0f", 100*m.LoadShare),
			number(m.ServicePeak / (1 << 20)), number(m.BrokerPeak / (1 << 20)), number(m.LogRate / (1 << 10)), number(m.Ready), number(m.Failures),
		}
		for _, b := range used {
			base := r.compare(row.testCase, b)
			if base == nil {
				cells = append(cells, "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%s  %s  %s", ratio(m.Rate, base.Median.Rate), ratio(m.P99, base.Median.P99), ratio(m.CPU, base.Median.CPU)))
		}
		table = append(table, cells)
	}
	return table
}

// label names a case beside its body and its connections.
func (c testCase) label() string {
	label := c.Target
	if c.Duplicates > 0 {
		label += fmt.Sprintf(" %g %% resends", 100*c.Duplicates)
	}
	if c.Stored > 0 {
		label += fmt.Sprintf(" %d stored", c.Stored)
	}
	if c.Flood != "" {
		label += " flooded " + c.Flood
	}
	if c.Rate > 0 {
		label += fmt.Sprintf(" at %d/s", c.Rate)
	}
	return label
}

func kib(size int) string { return fmt.Sprintf("%dK", size>>10) }

// number prints three digits that count; nothing for zero.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func ratio(v, base float64) string {
	if v == 0 || base == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f×", v/base)
}

// writeText writes the report for a terminal.
func (r *report) writeText(w io.Writer) {
	table := r.table()
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(w, "%s\n\n", r.heading())
	for _, cells := range table {
		var line strings.Builder
		for i, cell := range cells {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line.WriteString(cell + padding)
			} else {
				line.WriteString("  " + padding + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	fmt.Fprintln(w)
	for _, line := range append(r.verdicts(), r.proven()) {
		fmt.Fprintln(w, line)
	}
}

// writeMarkdown writes the same for a document.
func (r *report) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.heading())
	for i, cells := range r.table() {
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(w, "| --- |%s\n", strings.Repeat(" ---: |", len(cells)-1))
		}
	}
	fmt.Fprintln(w)
	for _, line := range append(r.verdicts(), r.proven()) {
		fmt.Fprintf(w, "- %s\n", line)
	}
}

func (r *report) heading() string {
	m := r.Machine
	low, high := extremes(r.Fsync)
	return fmt.Sprintf("%s; %d × %s, %s, %s, nats-server %s\nmedians of %d rounds of %v, interleaved; an append of 8 KiB with fsync took %s to %s ms",
		r.Started.Format(time.DateTime), m.CPUs, m.Model, m.Kernel, m.Go, m.NATSServer,
		r.Rounds, time.Duration(r.Duration*float64(time.Second)), cmp.Or(number(low), "?"), cmp.Or(number(high), "?"))
}

func extremes(values []float64) (low, high float64) {
	for i, v := range values {
		if i == 0 || v < low {
			low = v
		}
		high = max(high, v)
	}
	return low, high
}

// maxFlooded is the memory that an ingress with its embedded broker may hold
// whatever the flood, in bytes.
const maxFlooded = 600 << 20

// leastFlooded is the share of its throughput that a load keeps beside small
// forged requests.
const leastFlooded = 0.8

// verdicts says which claims hold, of those that the rows can settle.
func (r *report) verdicts() []string {
	var lines []string
	verdict := func(holds bool) string {
		if holds {
			return "holds"
		}
		return "DOES NOT HOLD"
	}
	for _, row := range r.Rows {
		if row.Flood == "" || len(row.Rounds) == 0 {
			continue
		}
		m, least, most := row.Median, 0.0, float64(maxFlooded)
		if alone := r.compare(row.testCase, noFlood); alone != nil {
			least, most = leastFlooded*alone.Median.Rate, maxFlooded+alone.Median.ServicePeak // which grows with what it stores
		}
		lines = append(lines, fmt.Sprintf("%s, %d connections: %s; memory %s MiB, want at most %.0f; beside it %.1f requests/s, want more than %.1f: %s",
			row.label(), row.Connections, m.Flood, number(m.ServicePeak/(1<<20)), most/(1<<20), m.Rate, least, verdict(m.ServicePeak <= most && m.Rate > least)))
	}
	for _, c := range claims {
		for _, row := range r.Rows {
			if row.Target != c.target || row.Connections != c.connections || row.Duplicates != c.duplicates || row.Size != 8<<10 || row.Stored > 0 || row.Flood != "" || row.Rate > 0 {
				continue
			}
			for _, b := range baselines {
				base := r.compare(row.testCase, b)
				if b.name != c.baseline || base == nil || len(row.Rounds) == 0 {
					continue
				}
				got := *c.figure(&row.Median) / *c.figure(&base.Median)
				bound, holds := fmt.Sprintf("at least %g", c.atLeast), got >= c.atLeast
				if c.atMost > 0 {
					bound, holds = fmt.Sprintf("at most %g", c.atMost), got <= c.atMost
				}
				lines = append(lines, fmt.Sprintf("%s, %d connections: %s %.2f × %s, want %s: %s", row.label(), row.Connections, c.what, got, c.baseline, bound, verdict(holds)))
			}
		}
	}
	return lines
}

// proven sums up what was read back. A run in which something was missing or
// twice ends with an error before.
func (r *report) proven() string {
	var p proof
	streams := 0
	for _, row := range r.Rows {
		for _, round := range row.Rounds {
			if round.Proof.Accepted > 0 {
				streams++
			}
			p.add(round.Proof)
		}
	}
	return fmt.Sprintf("read back %d streams: %d events answered 2xx, %d stored, missing %d, twice %d, never answered 2xx %d", streams, p.Accepted, p.Stored, p.Missing, p.Doubled, p.Foreign)
}
