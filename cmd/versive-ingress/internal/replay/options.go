// Package replay delivers a part of the event stream again: to a NATS subject, to
// an HTTP endpoint, or as lines, with a checkpoint from which an interrupted replay
// goes on. It also follows the stream for tail.
package replay

import (
	"errors"
	"fmt"

	"versive-ingress/cmd/versive-ingress/internal/sender"
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

// Check refuses values that are not allowed, and flags without the one that they
// require. changed reports whether a flag is set.
func (o *Options) Check(changed func(flag string) bool) error {
	switch {
	case changed("secret") && o.ToURL == "":
		return errors.New("--secret requires --to-url")
	case o.KeepID && o.ToSubject == "":
		return errors.New("--keep-id requires --to-subject")
	case changed("rate") && !(o.Rate > 0):
		return fmt.Errorf("--rate %v: want more than 0 events a second", o.Rate)
	case changed("checkpoint") && o.Checkpoint == "":
		return errors.New("--checkpoint: want the name of a file")
	case changed("to-subject"):
		return checkSubject(o.ToSubject)
	case changed("to-url"):
		if _, err := parseURL(o.ToURL); err != nil {
			return err
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
		u, _ := parseURL(o.ToURL)
		return shownURL(u)
	default:
		return "standard output"
	}
}
