package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A testCase is one row of the report.
type testCase struct {
	Target      string  `json:"target"`      // see parseTarget
	Other       bool    `json:"other_build"` // the second of bench.ingress
	Size        int     `json:"size"`        // of a body, in bytes
	Connections int     `json:"connections"`
	Duplicates  float64 `json:"duplicates"` // share of the requests that are resends
	Rate        int     `json:"rate"`       // requests a second; 0 is a closed loop
	Stored      int     `json:"stored"`     // events that the stream holds beforehand
	Forged      int     `json:"forged"`     // forged requests beside each signed one
}

// A matrix stands for all combinations of its values.
type matrix struct {
	targets                            []string
	sizes, connections, stored, forged []int // sizes in KiB
	duplicates                         []float64
	rate                               int
}

// presets are values of flags. A flag that the user gives takes precedence.
var presets = map[string]map[string]string{
	"default": {
		"targets":     "ingress/embedded,naive/always,naive/lazy,plain,singles/always,batches-64/always,batches-256/always,batches-500/always",
		"connections": "1,64,256",
	},
	"fsync":      {"targets": "ingress/embedded,naive/always,naive/lazy,batches-256/always", "connections": "1,16,64,256"},
	"duplicates": {"targets": "ingress/embedded,naive/always", "duplicates": "0,0.1"},
	"lazy":       {"targets": "ingress/lazy,naive/lazy"},
	"cluster":    {"targets": "ingress/cluster,naive/cluster"},
	"sizes":      {"targets": "ingress/embedded,naive/always,plain", "connections": "64", "sizes": "2,8,64,1024"},
	"stored":     {"targets": "ingress/embedded", "connections": "64", "stored": "0,10000,100000,1000000"},
	"overload":   {"targets": "ingress/embedded", "connections": "64", "forged": "0,9"},
}

// cases returns the combinations in the order in which they are measured. Those
// that are compared with each other are next to each other, so that a busy moment
// of the machine affects all of them.
func (m matrix) cases(withOther bool) ([]testCase, error) {
	all := []testCase{{Rate: m.rate}}
	all = combine(all, m.sizes, func(c *testCase, kib int) { c.Size = kib << 10 })
	all = combine(all, m.connections, func(c *testCase, n int) { c.Connections = n })
	all = combine(all, m.stored, func(c *testCase, n int) { c.Stored = n })
	all = combine(all, m.targets, func(c *testCase, name string) { c.Target = name })
	all = combine(all, m.duplicates, func(c *testCase, share float64) { c.Duplicates = share })
	all = combine(all, m.forged, func(c *testCase, n int) { c.Forged = n })

	var distinct []testCase
	for _, c := range all {
		t, err := parseTarget(c.Target)
		if err = errors.Join(err, c.check(t)); err != nil {
			return nil, err
		}
		if t.batch > 1 {
			c.Connections = 1 // several publishers of batches on one stream are not faster
		}
		if slices.Contains(distinct, c) {
			continue
		}
		distinct = append(distinct, c)
		if c.Other = true; withOther && t.handler == "ingress" {
			distinct = append(distinct, c)
		}
	}
	return distinct, nil
}

// combine returns each case with each of the values.
func combine[T any](cases []testCase, values []T, set func(*testCase, T)) []testCase {
	var all []testCase
	for _, c := range cases {
		for _, v := range values {
			set(&c, v)
			all = append(all, c)
		}
	}
	return all
}

func (c testCase) check(t target) error {
	switch {
	case c.Duplicates > 0 && (t.handler == "singles" || t.handler == "batches"):
		return fmt.Errorf("--duplicates: target %s cannot resend", c.Target)
	case c.Stored > 0 && c.Target != "ingress/embedded":
		return fmt.Errorf("--stored: want --targets ingress/embedded, not %s", c.Target)
	case c.Forged > 0 && t.handler != "ingress":
		return fmt.Errorf("--forged: want only ingress/... in --targets, not %s", c.Target)
	}
	return errors.Join(
		within("sizes", c.Size>>10, 2, 8192),
		within("connections", c.Connections, 1, 4096),
		within("duplicates", c.Duplicates, 0, 0.9),
		within("rate", c.Rate, 0, 200_000),
		within("stored", c.Stored, 0, 5_000_000),
		within("forged", c.Forged, 0, 100),
	)
}

// label describes a case apart from its size and connections.
func (c testCase) label() string {
	label := c.Target
	if c.Other {
		label += ", other build"
	}
	add := func(format string, v float64) {
		if v > 0 {
			label += fmt.Sprintf(format, v)
		}
	}
	add(", %.0f %% resends", 100*c.Duplicates)
	add(", %.0f stored", float64(c.Stored))
	add(", %.0f× forged", float64(c.Forged))
	add(", %.0f/s", float64(c.Rate))
	return label
}

// String describes a case in full.
func (c testCase) String() string {
	return fmt.Sprintf("%s, %d KiB, connections=%d", c.label(), c.Size>>10, c.Connections)
}

// A target names what is measured: a handler, and after a slash the broker that
// it stores events in.
type target struct {
	handler string // ingress, naive, plain, singles or batches
	broker  string // embedded, always, lazy, cluster or cluster-lazy; "" for plain
	batch   int    // events in one publish
}

const targetNames = "ingress/embedded, {ingress,naive,singles,batches-N}/{always,lazy,cluster,cluster-lazy}, plain"

var targetForm = regexp.MustCompile(`^(plain|ingress/embedded|(ingress|naive|singles|batches-[1-9]\d{1,2})/(always|lazy|cluster|cluster-lazy))$`)

func parseTarget(name string) (target, error) {
	if !targetForm.MatchString(name) {
		return target{}, fmt.Errorf("--targets: there is no target %q; want %s, N from 10 to 999", name, targetNames)
	}
	handler, broker, _ := strings.Cut(name, "/")
	handler, size, _ := strings.Cut(handler, "-")
	batch, _ := strconv.Atoi(size) // digits, or nothing
	return target{handler, broker, max(batch, 1)}, nil
}
