// Package replay delivers a part of the event stream again: to a NATS subject, to
// an HTTP endpoint, or as lines, with a checkpoint from which an interrupted replay
// resumes. It also follows the stream for tail.
package replay

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"

	"github.com/go-json-experiment/json"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Options are the flags of replay. Without ToSubject and ToURL the target is the
// standard output.
type Options struct {
	Selection  Selection
	ToSubject  string
	ToURL      string
	Secret     string
	KeepID     bool
	Rate       float64 // events a second; 0 is no limit
	Checkpoint string  // file
	DryRun     bool
	Quiet      bool
}

// targetSubject matches literal tokens, of which the last may be ">". It does not
// match subjects of the server, which begin with "$".
var targetSubject = regexp.MustCompile(`^[^\s\pC.*>$][^\s\pC.*>]*(\.[^\s\pC.*>]+)*(\.>)?$`)

// check refuses flags that contradict each other, and invalid targets.
func (o *Options) check() error {
	switch {
	case o.Secret != "" && o.ToURL == "":
		return errors.New("--secret requires --to-url")
	case o.KeepID && o.ToSubject == "":
		return errors.New("--keep-id requires --to-subject")
	case o.Rate != 0 && !(o.Rate > 0): // NaN too
		return fmt.Errorf("--rate %v: want more than 0 events a second", o.Rate)
	case o.ToSubject != "" && !targetSubject.MatchString(o.ToSubject):
		return fmt.Errorf(`--to-subject %q: want a subject without wildcards, or one that ends in ".>"`, o.ToSubject)
	case o.ToURL != "":
		if u, err := url.Parse(o.ToURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("--to-url: want a URL such as https://host/path") // not quoted: it may hold a token
		}
	}
	return nil
}

// target names the target, without secrets.
func (o *Options) target() string {
	switch {
	case o.ToSubject != "" && o.KeepID:
		return "subject " + o.ToSubject + " with the same ids"
	case o.ToSubject != "":
		return "subject " + o.ToSubject
	case o.ToURL != "":
		return terminal.URL(o.ToURL)
	default:
		return "standard output"
	}
}

// A Selection chooses a part of the event stream, as given on the command line and
// kept in a checkpoint.
type Selection struct {
	Since        string `json:"since,omitzero"`
	Until        string `json:"until,omitzero"`
	First        uint64 `json:"first,omitzero"`
	Last         uint64 `json:"last,omitzero"`
	Study        string `json:"study,omitzero"`
	Interview    string `json:"interview,omitzero"`
	Type         string `json:"type,omitzero"`
	Organization string `json:"organization,omitzero"`
}

// String returns the selection in JSON.
func (s Selection) String() string {
	text, _ := json.Marshal(s) // never fails
	return string(text)
}

var eventType = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)

// resolve returns the selection that the flags make now.
func (s Selection) resolve() (subscribe.Selection, error) {
	sel := subscribe.Selection{
		Filter:       schema.Filter{Type: s.Type, StudyID: s.Study, InterviewID: s.Interview},
		First:        s.First,
		Last:         s.Last,
		Organization: s.Organization,
	}
	var err error
	if sel.Since, err = terminal.ParseTime("since", s.Since); err != nil {
		return sel, err
	}
	if sel.Until, err = terminal.ParseTime("until", s.Until); err != nil {
		return sel, err
	}
	switch {
	case s.Type != "" && !eventType.MatchString(s.Type):
		return sel, fmt.Errorf("--type %q: want a type such as interview.completed", s.Type)
	case s.Last > 0 && s.First > s.Last:
		return sel, fmt.Errorf("--first %d is above --last %d", s.First, s.Last)
	case s.Until != "" && !sel.Since.Before(sel.Until):
		return sel, fmt.Errorf("--since %s is not before --until %s", s.Since, s.Until)
	}
	return sel, nil
}
