package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"versive-ingress/schema"
)

// Problem says how a stream has lost messages.
type Problem string

const (
	// Recreated: the stream was deleted. If there is one of its name, it was
	// created anew.
	Recreated Problem = "recreated"
	// WentBack: the stream ends before a message that was acknowledged.
	WentBack Problem = "went_back"
	// Removed: messages are gone, and neither an erasure nor the maximum age
	// explains it.
	Removed Problem = "removed"
	// Unreadable: the stream counts messages that it cannot return.
	Unreadable Problem = "unreadable"
)

var problemTexts = map[Problem]string{
	Recreated:  "was deleted, or deleted and created anew",
	WentBack:   "ends before messages that were acknowledged",
	Removed:    "lacks messages that nobody has erased",
	Unreadable: "counts messages that it cannot return",
}

// String describes the problem; the stream is the subject of the sentence.
func (p Problem) String() string { return problemTexts[p] }

// A Loss reports messages that a stream has held and does not return any more.
type Loss struct {
	Number    uint64           `json:"number"` // ascending, over all streams
	Time      time.Time        `json:"time"`   // when it was noticed
	Stream    string           `json:"stream"`
	Problem   Problem          `json:"problem"`
	Sequences schema.Sequences `json:"sequences"` // of the messages
}

const (
	marksFile        = "marks.json"        // written by the ingress alone
	acknowledgedFile = "acknowledged.json" // written by [Acknowledge] alone
)

// acknowledged is the content of acknowledgedFile.
type acknowledged struct {
	Number     uint64                      `json:"number"`     // of the last loss that is acknowledged
	Unreadable map[string]schema.Sequences `json:"unreadable"` // by stream: acknowledged before they are reported
}

func (a acknowledged) covers(l Loss) bool {
	return l.Number <= a.Number || l.Problem == Unreadable && l.Sequences.Minus(a.Unreadable[l.Stream]).Len() == 0
}

// ReadLosses returns the losses that the ingress whose high-water marks are in
// a directory has reported and nobody has acknowledged, and by stream the
// unreadable messages that were acknowledged, whether the ingress runs or not.
// It is an fs.ErrNotExist if no marks are there.
func ReadLosses(dir string) (losses []Loss, settled map[string]schema.Sequences, err error) {
	var marks marksContent
	if err := readJSON(filepath.Join(dir, marksFile), &marks); err != nil {
		return nil, nil, err
	}
	var ack acknowledged
	if err := readJSON(filepath.Join(dir, acknowledgedFile), &ack); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	settled = ack.Unreadable
	if settled == nil {
		settled = make(map[string]schema.Sequences)
	}
	for name, m := range marks.Streams {
		settled[name] = settled[name].Union(m.Unreadable)
	}
	for _, l := range marks.Losses {
		if ack.covers(l) {
			continue
		}
		losses = append(losses, l)
		if l.Problem == Unreadable {
			settled[l.Stream] = settled[l.Stream].Minus(l.Sequences)
		}
	}
	return losses, settled, nil
}

// Acknowledge acknowledges losses that [ReadLosses] has returned for the same
// directory, and unreadable messages by stream, reported or not. A running
// ingress notices it within seconds, another one when it starts.
func Acknowledge(dir string, losses []Loss, unreadable map[string]schema.Sequences) error {
	var ack acknowledged
	file := filepath.Join(dir, acknowledgedFile)
	if err := readJSON(file, &ack); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, l := range losses {
		ack.Number = max(ack.Number, l.Number)
	}
	if ack.Unreadable == nil {
		ack.Unreadable = make(map[string]schema.Sequences)
	}
	for name, sequences := range unreadable {
		ack.Unreadable[name] = ack.Unreadable[name].Union(sequences)
	}
	text, err := json.MarshalIndent(ack, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(file, text)
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// writeFile replaces a file as a whole and durably: after a crash there is the
// old content or the new one.
func writeFile(file string, text []byte) error {
	next := file + ".tmp"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
