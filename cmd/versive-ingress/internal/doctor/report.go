package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// Level is the severity of a finding; the status of a check or a report is that of
// its worst finding.
type Level int

const (
	Skipped Level = iota // the check was not made
	OK                   // there is no finding
	Warning              // the promise holds, but something weakens it or needs attention
	Unknown              // whether the promise holds could not be checked
	Problem              // the promise does not hold, or webhooks are rejected
)

// String returns the name of the level in reports.
func (l Level) String() string {
	return [...]string{"skipped", "ok", "warning", "unknown", "problem"}[l]
}

// MarshalText implements [encoding.TextMarshaler].
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// A Finding is one thing that is not as it should be. It contains no secrets.
type Finding struct {
	ID     string `json:"id"` // for programs; stable
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Why    string `json:"why"`    // it matters
	Remedy string `json:"remedy"` // a command or setting to paste
}

// A Result is the outcome of one check.
type Result struct {
	Check    string    `json:"check"`
	Status   Level     `json:"status"`
	Seen     string    `json:"seen"` // what there is, in a few words
	Findings []Finding `json:"findings"`
}

func (r *Result) add(level Level, id, found, why, remedy string) {
	r.Findings = append(r.Findings, Finding{id, level, found, why, remedy})
	r.Status = max(r.Status, level)
}

// when adds a finding if a condition applies.
func (r *Result) when(applies bool, level Level, id, found, why, remedy string) {
	if applies {
		r.add(level, id, found, why, remedy)
	}
}

// fails adds the finding that err keeps serve from starting.
func (r *Result) fails(id string, err error, why, remedy string) {
	r.add(Problem, id, err.Error(), why, remedyFor(err, remedy))
}

func (r *Result) skip(why string) { r.Status, r.Seen = Skipped, why }

// unanswered adds the finding that something could not be read.
func (r *Result) unanswered(what string, err error, remedy string) {
	r.add(Unknown, "unanswered", fmt.Sprintf("%s: %v", what, err), "what cannot be read cannot be checked", remedyFor(err, remedy))
}

// explain replaces the errors of a check that ended because the broker denied a request.
func (r *Result) explain(denied error) {
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Found = strings.ReplaceAll(f.Found, context.Canceled.Error(), denied.Error())
		if f.ID == "unanswered" && strings.Contains(f.Found, denied.Error()) {
			f.ID, f.Remedy = "broker_denies", "export INGRESS_NATS_NKEY=/path/to/operator.nk  # or INGRESS_NATS_CREDS: of a user with that permission, such as the operator of deploy/nats/users.conf"
		}
	}
}

// nearlyFull is the part of a limit from which on there is a warning.
const nearlyFull = 0.9

// limit adds a finding if a limit is reached or nearly so. One of 0 or less is none.
func (r *Result) limit(id, holder, unit string, used uint64, limit int64, remedy string) {
	level := Warning
	if used >= uint64(limit) {
		level = Problem
	}
	r.when(limit > 0 && float64(used) >= nearlyFull*float64(limit), level, id, fmt.Sprintf("%s holds %d of at most %d %s", holder, used, limit, unit),
		"once it is full, webhooks are answered 503, and the sender gives up after 27 h 35 m", remedy)
}

// A Report is the outcome of all checks. It is written as JSON.
type Report struct {
	Status Level    `json:"status"`
	Checks []Result `json:"checks"`
}

// Verdict returns the report in one line.
func (r Report) Verdict() string {
	verdict := cmp.Or(map[Level]string{
		Problem: "the promise does not hold",
		Unknown: "whether the promise holds could not be checked",
	}[r.Status], "the promise holds")
	count := make(map[Level]int)
	for _, c := range r.Checks {
		for _, f := range c.Findings {
			count[f.Level]++
		}
	}
	for _, level := range []Level{Problem, Unknown, Warning} {
		switch n := count[level]; {
		case n > 0 && level == Unknown:
			verdict += fmt.Sprintf("; not checked: %d", n)
		case n > 0:
			verdict += "; " + terminal.Plural(n, level.String(), level.String()+"s")
		}
	}
	return verdict
}

// Print writes the checks with their findings, for a person.
func (r Report) Print(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		status := c.Status.String()
		if c.Status == Problem {
			status = strings.ToUpper(status)
		}
		fmt.Fprintf(&b, "%-8s %-13s %s\n", status, c.Check, c.Seen)
		for _, f := range c.Findings {
			fmt.Fprintf(&b, "           %s: %s\n             why  %s\n             fix  %s\n", f.ID, f.Found, f.Why, f.Remedy)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
