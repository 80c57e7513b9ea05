package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A testCase is a row of the report.
type testCase struct {
	Target      string  `json:"target"`      // see targetNames
	Other       bool    `json:"other_build"` // measures the second binary of bench.ingress
	Size        int     `json:"size"`        // of a body, in bytes
	Connections int     `json:"connections"`
	Duplicates  float64 `json:"duplicates"` // share of the requests that are resends
	Rate        int     `json:"rate"`       // requests a second; 0: a closed loop
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

// A target names what is measured: a handler, and after a slash the broker that
// it stores events in.
const targetNames = "ingress/embedded, {ingress,naive,singles,batches-N}/{always,lazy,cluster}, plain"

var targetForm = regexp.MustCompile(`^(plain|ingress/embedded|(ingress|naive|singles|batches-[1-9]\d{1,2})/(always|lazy|cluster))$`)

// parts returns the parts of the target's name. broker is empty for plain, and
// batch is the number of events in one publish.
func (c testCase) parts() (handler, broker string, batch int) {
	handler, broker, _ = strings.Cut(c.Target, "/")
	handler, size, _ := strings.Cut(handler, "-")
	batch, _ = strconv.Atoi(size) // digits, or empty
	return handler, broker, max(batch, 1)
}

// cases returns the combinations in the order in which they are measured. Those
// that are compared with each other are adjacent, so that noise of the machine
// affects all of them.
func (m matrix) cases(withOther bool) ([]testCase, error) {
	if err := errors.Join(
		within("sizes", 2, 8192, m.sizes...),
		within("connections", 1, 4096, m.connections...),
		within("duplicates", 0, 0.9, m.duplicates...),
		within("stored", 0, 5_000_000, m.stored...),
		within("forged", 0, 100, m.forged...),
		within("rate", 0, 200_000, m.rate)); err != nil {
		return nil, err
	}
	all := []testCase{{Rate: m.rate}}
	all = combine(all, m.sizes, func(c *testCase, kib int) { c.Size = kib << 10 })
	all = combine(all, m.connections, func(c *testCase, n int) { c.Connections = n })
	all = combine(all, m.stored, func(c *testCase, n int) { c.Stored = n })
	all = combine(all, m.targets, func(c *testCase, name string) { c.Target = name })
	all = combine(all, m.duplicates, func(c *testCase, share float64) { c.Duplicates = share })
	all = combine(all, m.forged, func(c *testCase, n int) { c.Forged = n })

	var distinct []testCase
	for _, c := range all {
		handler, _, batch := c.parts()
		switch {
		case !targetForm.MatchString(c.Target):
			return nil, fmt.Errorf("--targets %s: want %s, N from 10 to 999", c.Target, targetNames)
		case c.Duplicates > 0 && (handler == "singles" || handler == "batches"):
			return nil, fmt.Errorf("--duplicates: target %s cannot resend", c.Target)
		case c.Stored > 0 && c.Target != "ingress/embedded":
			return nil, fmt.Errorf("--stored requires --targets ingress/embedded, not %s", c.Target)
		case c.Forged > 0 && handler != "ingress":
			return nil, fmt.Errorf("--forged requires --targets ingress/..., not %s", c.Target)
		}
		if batch > 1 {
			c.Connections = 1 // several publishers of batches on one stream are not faster
		}
		if slices.Contains(distinct, c) {
			continue
		}
		distinct = append(distinct, c)
		if withOther && handler == "ingress" {
			c.Other = true
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
