package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A testCase is one row of the table.
type testCase struct {
	Target      string  `json:"target"` // see parseTarget
	Size        int     `json:"size"`   // of a body, bytes
	Connections int     `json:"connections"`
	Duplicates  float64 `json:"duplicates"` // share of requests that are resends
	Rate        int     `json:"rate"`       // requests a second; 0 is a closed loop
	Stored      int     `json:"stored"`     // events in the stream beforehand
	Flood       string  `json:"flood"`      // one of floodKinds, or none
}

// A matrix is the cases that all combinations of its members make.
type matrix struct {
	targets     []string
	sizes       []int // KiB
	connections []int
	duplicates  []float64
	stored      []int
	floods      []string // "": none
	rate        int
}

// cases returns the combinations that make sense, in the order of the table.
func (m matrix) cases() ([]testCase, error) {
	var cases []testCase
	for _, size := range m.sizes {
		for _, name := range m.targets {
			t, err := parseTarget(name)
			if err != nil {
				return nil, err
			}
			connections := m.connections
			if t.batch > 1 {
				// Batches of several publishers on one stream are not faster.
				connections = []int{1}
			}
			for _, n := range connections {
				for _, duplicates := range m.duplicates {
					for _, stored := range m.stored {
						for _, flood := range m.floods {
							cases = append(cases, testCase{name, size << 10, n, duplicates, m.rate, stored, flood})
						}
					}
				}
			}
		}
	}
	return cases, check(cases)
}

// check bounds what a case may ask of the machine.
func check(cases []testCase) error {
	for _, c := range cases {
		t, err := parseTarget(c.Target)
		if err != nil {
			return err
		}
		switch {
		case c.Size < 2<<10 || c.Size > 8<<20:
			return errors.New("--sizes: want 2 to 8192 KiB")
		case c.Connections < 1 || c.Connections > 4096:
			return errors.New("--connections: want 1 to 4096")
		case c.Duplicates < 0 || c.Duplicates > 0.9:
			return errors.New("--duplicates: want 0 to 0.9")
		case c.Duplicates > 0 && (t.handler == "singles" || t.handler == "batches"):
			return fmt.Errorf("--duplicates: target %s sends none", c.Target)
		case c.Rate < 0 || c.Rate > 200_000:
			return errors.New("--rate: want at most 200000 a second")
		case c.Stored < 0 || c.Stored > 5_000_000:
			return errors.New("--stored: want at most 5000000")
		case c.Stored > 0 && c.Target != "ingress/embedded":
			return fmt.Errorf("--stored: only ingress/embedded starts with stored events, not %s", c.Target)
		case c.Flood != "" && !slices.Contains(floodKinds, c.Flood):
			return fmt.Errorf("--floods: want some of %s", strings.Join(floodKinds, ", "))
		case c.Flood != "" && t.handler != "ingress":
			return fmt.Errorf("--floods: only an ingress withstands them, not %s", c.Target)
		}
	}
	return nil
}

// presets are the matrices that show one thing each.
var presets = map[string]matrix{
	"default": {
		targets:     []string{"ingress/embedded", "naive/always", "naive/lazy", "plain", "singles/always", "batches-64/always", "batches-256/always", "batches-500/always"},
		connections: []int{1, 64, 256},
	},
	"fsync":      {targets: []string{"ingress/embedded", "naive/always", "naive/lazy", "batches-256/always"}, connections: []int{1, 16, 64, 256}},
	"duplicates": {targets: []string{"ingress/embedded", "naive/always"}, duplicates: []float64{0, 0.1}},
	"lazy":       {targets: []string{"ingress/lazy", "naive/lazy"}},
	"cluster":    {targets: []string{"ingress/cluster", "naive/cluster"}},
	"sizes":      {targets: []string{"ingress/embedded", "naive/always", "plain"}, sizes: []int{2, 8, 64, 1024}, connections: []int{64}},
	"stored":     {targets: []string{"ingress/embedded"}, connections: []int{64}, stored: []int{0, 10_000, 100_000, 1_000_000}},
	"overload":   {targets: []string{"ingress/embedded"}, connections: []int{64}, floods: []string{"", ninefold}},
	"memory":     {targets: []string{"ingress/embedded"}, connections: []int{16}, floods: []string{"", "forged", "signed", "stalled"}},
}

// withDefaults fills in what a preset leaves open.
func (m matrix) withDefaults() matrix {
	if m.sizes == nil {
		m.sizes = []int{8}
	}
	if m.connections == nil {
		m.connections = []int{64, 256}
	}
	if m.duplicates == nil {
		m.duplicates = []float64{0}
	}
	if m.stored == nil {
		m.stored = []int{0}
	}
	if m.floods == nil {
		m.floods = []string{""}
	}
	return m
}

func presetNames() string {
	var names []string
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// A baseline is what other cases are compared with: for each case, another one
// that differs from it in one thing. A case that it does not fit is its own.
type baseline struct {
	name string
	of   func(testCase) testCase
}

func withTarget(name string) baseline {
	return baseline{name, func(c testCase) testCase {
		if !strings.HasPrefix(c.Target, "batches-") { // whose connections mean something else
			c.Target = name
		}
		return c
	}}
}

var noFlood = baseline{"no flood", func(c testCase) testCase {
	if c.Flood == ninefold { // the others leave little
		c.Flood = ""
	}
	return c
}}

var baselines = []baseline{
	withTarget("naive/always"),
	withTarget("naive/lazy"),
	withTarget("naive/cluster"),
	withTarget("naive/cluster-lazy"),
	{"batches-256/always", func(c testCase) testCase { // what the broker can do at best
		if c.Target == "ingress/embedded" {
			c.Target, c.Connections = "batches-256/always", 1
		}
		return c
	}},
	{"no resends", func(c testCase) testCase { c.Duplicates = 0; return c }},
	noFlood,
	{"empty stream", func(c testCase) testCase { c.Stored = 0; return c }},
}

// A claim is what the project says of itself, as a ratio to a baseline with
// bodies of 8 KiB.
type claim struct {
	target      string
	connections int
	duplicates  float64
	what        string
	figure      func(*measurement) *float64
	baseline    string
	atLeast     float64 // or 0
	atMost      float64 // or 0
}

var (
	rate = func(m *measurement) *float64 { return &m.Rate }
	p99  = func(m *measurement) *float64 { return &m.P99 }
	cpu  = func(m *measurement) *float64 { return &m.CPU }
)

var claims = []claim{
	{"ingress/embedded", 1, 0, "requests/s", rate, "naive/always", 1.15, 0},
	{"ingress/embedded", 64, 0, "requests/s", rate, "naive/always", 2.2, 0},
	{"ingress/embedded", 256, 0, "requests/s", rate, "naive/always", 3.4, 0},
	{"ingress/embedded", 64, 0, "p99", p99, "naive/always", 0, 0.6},
	{"ingress/embedded", 64, 0, "CPU a request", cpu, "naive/lazy", 0, 0.9},
	{"ingress/embedded", 64, 0.1, "requests/s", rate, "no resends", 0.7, 0},
	{"ingress/embedded", 256, 0.1, "requests/s", rate, "no resends", 0.7, 0},
	{"ingress/lazy", 64, 0, "requests/s", rate, "naive/lazy", 1, 0},
	{"ingress/lazy", 64, 0, "CPU a request", cpu, "naive/lazy", 0, 1},
	{"ingress/lazy", 256, 0, "requests/s", rate, "naive/lazy", 1, 0},
	{"ingress/lazy", 256, 0, "CPU a request", cpu, "naive/lazy", 0, 1},
	{"ingress/cluster", 256, 0, "requests/s", rate, "naive/cluster", 1, 0},
}

// maxDuration keeps signatures valid: they are made before the load begins and
// hold for five minutes.
const maxDuration = 2 * time.Minute
