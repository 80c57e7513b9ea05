// Package replay delivers a part of the event stream again: to a NATS subject, to
// an HTTP endpoint, or as lines, with a checkpoint from which an interrupted replay
// goes on. It also follows the stream for tail.
package replay

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
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

// targetSubject matches literal tokens, of which the last may be ">"; none that
// are the server's own.
var targetSubject = regexp.MustCompile(`^[^\s\pC.*>$][^\s\pC.*>]*(\.[^\s\pC.*>]+)*(\.>)?$`)

// check refuses flags that contradict each other, and targets that cannot be.
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
		_, err := sender.New(o.ToURL, o.Secret)
		return err
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
