package main

import (
	"fmt"
	"strings"
)

// A figure selects one of the figures.
type figure struct {
	title string
	of    func(figures) float64
}

var (
	rate   = figure{"requests/s", func(f figures) float64 { return f.Rate }}
	p99    = figure{"p99 ms", func(f figures) float64 { return f.P99 }}
	cpu    = figure{"CPU µs a request", func(f figures) float64 { return f.CPU }}
	memory = figure{"service MiB", func(f figures) float64 { return f.ServiceMemory }}
	ready  = figure{"ready s", func(f figures) float64 { return f.Ready }}
)

// compared are the figures that ratios and plot show.
var compared = []figure{rate, p99, cpu}

// A baseline maps a case to the one that it is compared with, which differs in one
// thing, and to itself where there is none.
type baseline struct {
	name string
	of   func(testCase) testCase
}

var (
	naiveAlways  = targetBaseline("naive/always")
	naiveLazy    = targetBaseline("naive/lazy")
	naiveCluster = targetBaseline("naive/cluster")
	noResends    = baseline{"no resends", func(c testCase) testCase { c.Duplicates = 0; return c }}
	noneForged   = baseline{"none forged", func(c testCase) testCase { c.Forged = 0; return c }}
)

// baselines are in the order of the table.
var baselines = []baseline{
	naiveAlways, naiveLazy, naiveCluster, targetBaseline("naive/cluster-lazy"),
	{"batches-256/always", func(c testCase) testCase { // the most that the broker can do
		if c.Target == "ingress/embedded" {
			c.Target, c.Connections, c.Other = "batches-256/always", 1, false
		}
		return c
	}},
	noResends,
	noneForged,
	{"empty stream", func(c testCase) testCase { c.Stored = 0; return c }},
	{"other build", func(c testCase) testCase { c.Other = true; return c }},
}

func targetBaseline(name string) baseline {
	return baseline{name, func(c testCase) testCase {
		if !strings.HasPrefix(c.Target, "batches-") { // whose one connection is not comparable
			c.Target, c.Other = name, false
		}
		return c
	}}
}

// A claim is a goal of the project for bodies of 8 KiB: the least requests a
// second, or the most of another figure, as a ratio to the baseline if it has one.
type claim struct {
	testCase
	figure
	*baseline
	bound float64
}

var claims = []claim{
	{testCase{Target: "ingress/embedded", Connections: 1}, rate, &naiveAlways, 1.3},
	{testCase{Target: "ingress/embedded", Connections: 64}, rate, &naiveAlways, 2.4},
	{testCase{Target: "ingress/embedded", Connections: 256}, rate, &naiveAlways, 3},
	{testCase{Target: "ingress/embedded", Connections: 64}, p99, &naiveAlways, 0.5},
	{testCase{Target: "ingress/embedded", Connections: 256}, p99, &naiveAlways, 0.5},
	{testCase{Target: "ingress/embedded", Connections: 64}, cpu, &naiveLazy, 1},
	{testCase{Target: "ingress/embedded", Connections: 256}, cpu, &naiveLazy, 1},
	{testCase{Target: "ingress/lazy", Connections: 64}, rate, &naiveLazy, 1},
	{testCase{Target: "ingress/lazy", Connections: 256}, rate, &naiveLazy, 1},
	{testCase{Target: "ingress/lazy", Connections: 64}, cpu, &naiveLazy, 1},
	{testCase{Target: "ingress/lazy", Connections: 256}, cpu, &naiveLazy, 1},
	{testCase{Target: "ingress/cluster", Connections: 256}, rate, &naiveCluster, 1},
	{testCase{Target: "ingress/embedded", Connections: 64, Duplicates: 0.1}, rate, &noResends, 0.7},
	{testCase{Target: "ingress/embedded", Connections: 256, Duplicates: 0.1}, rate, &noResends, 0.7},
	{testCase{Target: "ingress/embedded", Connections: 64, Forged: 9}, rate, &noneForged, 0.8},
	{testCase{Target: "ingress/embedded", Connections: 64, Forged: 9}, memory, nil, 600},
	{testCase{Target: "ingress/embedded", Connections: 64, Stored: 1_000_000}, memory, nil, 1000},
	{testCase{Target: "ingress/embedded", Connections: 64, Stored: 1_000_000}, ready, nil, 7},
}

// verdicts reports whether the claims hold, of those whose rows were measured.
func (r *report) verdicts() []string {
	var lines []string
	for _, claim := range claims {
		claim.Size = 8 << 10
		row := r.find(claim.testCase)
		if row == nil {
			continue
		}
		got, unit := claim.figure.of(row.Median), ""
		if claim.baseline != nil {
			base := r.compare(row, *claim.baseline)
			if base == nil {
				continue
			}
			got, unit = got/claim.figure.of(base.Median), " × "+claim.baseline.name
		}
		want, holds := "at most", got <= claim.bound
		if claim.title == rate.title {
			want, holds = "at least", got >= claim.bound
		}
		verdict := map[bool]string{true: "holds", false: "DOES NOT HOLD"}[holds]
		lines = append(lines, fmt.Sprintf("%s, connections=%d: %s %.2f%s, want %s %g: %s",
			row.label(), row.Connections, claim.title, got, unit, want, claim.bound, verdict))
	}
	return lines
}
