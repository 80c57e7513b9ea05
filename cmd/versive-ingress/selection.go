package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// selectionFlags choose a part of the event stream, as given on the command
// line.
type selectionFlags struct {
	Since     string `json:"since,omitzero"`
	Until     string `json:"until,omitzero"`
	First     uint64 `json:"first,omitzero"`
	Last      uint64 `json:"last,omitzero"`
	Study     string `json:"study,omitzero"`
	Interview string `json:"interview,omitzero"`
	Type      string `json:"type,omitzero"`
}

// String returns the flags as they are typed.
func (f selectionFlags) String() string {
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

// aboutTimes explains the values of --since and --until.
const aboutTimes = `Times are those at which the ingress stored an event: RFC 3339 with its zone
(2024-01-31T08:00:00Z, 2024-01-31T09:00:00+01:00), or a duration such as 90m or
48h for that long ago.`

// addFilter adds the flags that choose events by what they are.
func (f *selectionFlags) addFilter(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Study, "study", "", "only events of the study with this id")
	flags.StringVar(&f.Interview, "interview", "", "only events of the interview with this id")
	flags.StringVar(&f.Type, "type", "", "only events of this type, such as interview.completed")
}

// addBounds adds the flags that choose events by their place in the stream.
func (f *selectionFlags) addBounds(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Since, "since", "", "from this time on")
	flags.StringVar(&f.Until, "until", "", "before this time")
	flags.Uint64Var(&f.First, "first", 0, "from this sequence on")
	flags.Uint64Var(&f.Last, "last", 0, "to this sequence, included")
}

var eventType = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)

// selection returns the selection that the flags make at a time. A flag that
// is set to nothing is refused: it may be a script's empty variable.
func (f *selectionFlags) selection(cmd *cobra.Command, now time.Time) (subscribe.Selection, error) {
	sel := subscribe.Selection{
		Filter: schema.Filter{Type: f.Type, StudyID: f.Study, InterviewID: f.Interview},
		First:  f.First,
		Last:   f.Last,
	}
	for _, name := range []string{"study", "interview", "type", "since", "until", "first", "last"} {
		flag := cmd.Flags().Lookup(name)
		if flag == nil || !flag.Changed {
			continue
		}
		var err error
		switch value := flag.Value.String(); {
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
	case sel.First > 0 && !sel.Since.IsZero():
		return sel, errors.New("--first and --since: give one of them")
	case sel.Last > 0 && !sel.Until.IsZero():
		return sel, errors.New("--last and --until: give one of them")
	case sel.Last > 0 && sel.First > sel.Last:
		return sel, fmt.Errorf("--first %d is behind --last %d", sel.First, sel.Last)
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
