package main

import (
	"fmt"
	"strings"
)

// baselines name the cases that others are compared with, in the order of the table.
var baselines = []string{
	"naive/always", "naive/lazy", "naive/cluster", "batches-256/always",
	"no resends", "none forged", "empty stream", "other build",
}

// baseline returns the case that c is compared with, which differs in one thing, or c
// itself if there is none.
func (c testCase) baseline(name string) testCase {
	switch name {
	case "no resends":
		c.Duplicates = 0
	case "none forged":
		c.Forged = 0
	case "empty stream":
		c.Stored = 0
	case "other build":
		c.Other = true
	case "batches-256/always": // the most that the broker can do
		if c.Target == "ingress/embedded" {
			c.Target, c.Connections, c.Other = name, 1, false
		}
	default:
		if !strings.HasPrefix(c.Target, "batches-") { // whose one connection is not comparable
			c.Target, c.Other = name, false
		}
	}
	return c
}

// A claim is a goal of the project for bodies of 8 KiB: at least so many requests a
// second, or at most so much of another figure; a ratio to the baseline if there is one.
type claim struct {
	testCase
	title string // of the figure
	base  string // baseline, or ""
	bound float64
}

var claims = []claim{
	{testCase{Target: "ingress/embedded", Connections: 1}, "requests/s", "naive/always", 1.3},
	{testCase{Target: "ingress/embedded", Connections: 64}, "requests/s", "naive/always", 2.4},
	{testCase{Target: "ingress/embedded", Connections: 256}, "requests/s", "naive/always", 3},
	{testCase{Target: "ingress/embedded", Connections: 64}, "p99 ms", "naive/always", 0.5},
	{testCase{Target: "ingress/embedded", Connections: 256}, "p99 ms", "naive/always", 0.5},
	{testCase{Target: "ingress/embedded", Connections: 64}, "CPU µs", "naive/lazy", 1},
	{testCase{Target: "ingress/embedded", Connections: 256}, "CPU µs", "naive/lazy", 1},
	{testCase{Target: "ingress/lazy", Connections: 64}, "requests/s", "naive/lazy", 1},
	{testCase{Target: "ingress/lazy", Connections: 256}, "requests/s", "naive/lazy", 1},
	{testCase{Target: "ingress/lazy", Connections: 64}, "CPU µs", "naive/lazy", 1},
	{testCase{Target: "ingress/lazy", Connections: 256}, "CPU µs", "naive/lazy", 1},
	{testCase{Target: "ingress/cluster", Connections: 256}, "requests/s", "naive/cluster", 1},
	{testCase{Target: "ingress/embedded", Connections: 64, Duplicates: 0.1}, "requests/s", "no resends", 0.7},
	{testCase{Target: "ingress/embedded", Connections: 256, Duplicates: 0.1}, "requests/s", "no resends", 0.7},
	{testCase{Target: "ingress/embedded", Connections: 64, Forged: 9}, "requests/s", "none forged", 0.8},
	{testCase{Target: "ingress/embedded", Connections: 64, Forged: 9}, "service MiB", "", 600},
	{testCase{Target: "ingress/embedded", Connections: 64, Stored: 1_000_000}, "service MiB", "", 1000},
	{testCase{Target: "ingress/embedded", Connections: 64, Stored: 1_000_000}, "ready s", "", 7},
}

// verdicts reports, for each claim whose rows were measured, whether it holds.
func (r *report) verdicts() []string {
	var lines []string
	for _, claim := range claims {
		claim.Size = 8 << 10
		row := r.find(claim.testCase)
		if row == nil {
			continue
		}
		got, unit := row.Median[claim.title], ""
		if claim.base != "" {
			base := r.find(claim.baseline(claim.base))
			if base == nil {
				continue
			}
			got, unit = got/base.Median[claim.title], " × "+claim.base
		}
		want, holds := "at most", got <= claim.bound
		if claim.title == "requests/s" {
			want, holds = "at least", got >= claim.bound
		}
		verdict := "holds"
		if !holds {
			verdict = "DOES NOT HOLD"
		}
		lines = append(lines, fmt.Sprintf("%s, connections=%d: %s %.2f%s, want %s %g: %s",
			row.label(), row.Connections, claim.title, got, unit, want, claim.bound, verdict))
	}
	return lines
}
