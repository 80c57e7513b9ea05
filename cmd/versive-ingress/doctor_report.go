package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// Level says how much a finding weighs.
type Level string

const (
	// Warning: the promise holds, but something will break it, weakens it, or
	// waits for somebody.
	Warning Level = "warning"
	// Unknown: whether the promise holds could not be checked.
	Unknown Level = "unknown"
	// Problem: the promise does not hold, or webhooks are refused.
	Problem Level = "problem"

	good    Level = "ok" // no finding
	skipped Level = "skipped"
)

var weight = map[Level]int{skipped: 0, good: 1, Warning: 2, Unknown: 3, Problem: 4}

// A Finding is one thing that is not as it should be. It holds nothing secret.
type Finding struct {
	ID     string `json:"id"` // a word for programs, stable
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Why    string `json:"why"`    // it matters
	Remedy string `json:"remedy"` // to paste
}

// A result is what became of one check.
type result struct {
	Check    string    `json:"check"`
	Status   Level     `json:"status"` // of the worst finding; ok or skipped without one
	Seen     string    `json:"seen"`
	Findings []Finding `json:"findings"`
}

// A report is what became of all checks.
type report struct {
	Status Level    `json:"status"`
	Checks []result `json:"checks"`
}

func (r *report) add(c result) {
	c.Status = cmp.Or(c.Status, good)
	for _, f := range c.Findings {
		if weight[f.Level] > weight[c.Status] {
			c.Status = f.Level
		}
	}
	if weight[c.Status] > weight[r.Status] {
		r.Status = c.Status
	}
	r.Checks = append(r.Checks, c)
}

// verdict is the report in a line.
func (r report) verdict() string {
	says := map[Level]string{
		good:    "the promise holds",
		Warning: "the promise holds",
		Unknown: "whether the promise holds could not be checked",
		Problem: "the promise does not hold",
	}[r.Status]
	for _, level := range []Level{Problem, Unknown, Warning} {
		n := 0
		for _, c := range r.Checks {
			n += len(slices.DeleteFunc(slices.Clone(c.Findings), func(f Finding) bool { return f.Level != level }))
		}
		switch {
		case n > 0 && level == Unknown:
			says += fmt.Sprintf("; not checked: %d", n)
		case n > 0:
			says += "; " + terminal.Plural(n, string(level), string(level)+"s")
		}
	}
	return says
}

// unchecked is the error of a check that could not be made.
type unchecked struct{ error }

func (r report) err() error {
	switch r.Status {
	case Problem:
		return errors.New(r.verdict())
	case Unknown:
		return unchecked{errors.New(r.verdict())}
	}
	return nil
}

// exitCode is 2 for what could not be checked, and 1 for all other errors.
func exitCode(err error) int {
	if _, ok := errors.AsType[unchecked](err); ok {
		return 2
	}
	return 1
}

func (r report) print(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		status := string(c.Status)
		if c.Status == Problem {
			status = strings.ToUpper(status)
		}
		fmt.Fprintf(&b, "%-8s %-13s %s\n", status, c.Check, c.Seen)
		for _, f := range c.Findings {
			fmt.Fprintf(&b, "           %s: %s\n             why  %s\n             fix  %s\n", f.ID, f.Found, f.Why, f.Remedy)
		}
	}
	if r.err() == nil { // else main says it
		fmt.Fprintf(&b, "\n%s\n", r.verdict())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r report) printJSON(w io.Writer) error {
	err := json.MarshalWrite(w, r, jsontext.WithIndent("  "))
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}
