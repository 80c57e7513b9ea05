package replay

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Selection chooses a part of the event stream, as given on the command line and
// kept in a checkpoint.
type Selection struct {
	Since     string `json:"since,omitzero"`
	Until     string `json:"until,omitzero"`
	First     uint64 `json:"first,omitzero"`
	Last      uint64 `json:"last,omitzero"`
	Study     string `json:"study,omitzero"`
	Interview string `json:"interview,omitzero"`
	Type      string `json:"type,omitzero"`
}

// String returns the flags as they are typed.
func (f Selection) String() string {
	var words []string
	add := func(name string, value any) {
		if value != "" && value != uint64(0) {
			words = append(words, fmt.Sprintf("--%s %v", name, value))
		}
	}
	add("since", f.Since)
	add("until", f.Until)
	add("first", f.First)
	add("last", f.Last)
	add("study", f.Study)
	add("interview", f.Interview)
	add("type", f.Type)
	if len(words) == 0 {
		return "all"
	}
	return strings.Join(words, " ")
}

var eventType = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)

// Resolve returns the selection that the flags make at a time. changed reports
// whether a flag is set: one that is set to nothing is refused, for it may be a
// script's empty variable.
func (f *Selection) Resolve(changed func(flag string) bool, now time.Time) (subscribe.Selection, error) {
	sel := subscribe.Selection{
		Filter: schema.Filter{Type: f.Type, StudyID: f.Study, InterviewID: f.Interview},
		First:  f.First,
		Last:   f.Last,
	}
	for _, flag := range []struct{ name, value string }{
		{"study", f.Study},
		{"interview", f.Interview},
		{"type", f.Type},
		{"since", f.Since},
		{"until", f.Until},
		{"first", strconv.FormatUint(f.First, 10)},
		{"last", strconv.FormatUint(f.Last, 10)},
	} {
		if !changed(flag.name) {
			continue
		}
		var err error
		switch name, value := flag.name, flag.value; {
		case value == "":
			err = fmt.Errorf("--%s: want a value", name)
		case value == "0" && (name == "first" || name == "last"):
			err = fmt.Errorf("--%s 0: sequences begin with 1", name)
		case name == "type" && !eventType.MatchString(value):
			err = fmt.Errorf("--type %q: want a type such as interview.completed", value)
		case name == "since":
			sel.Since, err = parseTime(name, value, now)
		case name == "until":
			sel.Until, err = parseTime(name, value, now)
		}
		if err != nil {
			return subscribe.Selection{}, err
		}
	}
	switch {
	case sel.Last > 0 && sel.First > sel.Last:
		return sel, fmt.Errorf("--first %d is above --last %d", sel.First, sel.Last)
	case !sel.Until.IsZero() && !sel.Since.Before(sel.Until):
		return sel, fmt.Errorf("--since %s is not before --until %s", f.Since, f.Until)
	}
	return sel, nil
}

func parseTime(name, value string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(value); err == nil && ago > 0 {
		return now.Add(-ago).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("--%s %q: want a time such as 2024-01-31T08:00:00Z, or how long ago, such as 2h", name, value)
	}
	return t.UTC(), nil
}
