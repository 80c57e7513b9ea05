package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"versive-ingress/publish/access"
	"versive-ingress/schema"
)

// Problem is how a stream has lost messages.
type Problem string

const (
	// Recreated means that the stream was deleted, and may have been created again.
	Recreated Problem = "recreated"
	// WentBack means that the stream ends before a message that was acknowledged.
	WentBack Problem = "went_back"
	// Removed means that messages are missing that were neither erased nor expired.
	Removed Problem = "removed"
	// Unreadable means that the stream counts messages that it cannot return.
	Unreadable Problem = "unreadable"
)

var problemTexts = map[Problem]string{
	Recreated:  "was deleted or recreated",
	WentBack:   "ends before messages that were acknowledged",
	Removed:    "lacks messages that were not erased",
	Unreadable: "counts messages that it cannot return",
}

// String returns a predicate that describes the problem of a stream.
func (p Problem) String() string { return problemTexts[p] }

// A Loss reports messages that a stream had and no longer returns.
type Loss struct {
	Number    uint64           `json:"number"` // ascending across all streams
	Time      time.Time        `json:"time"`   // of the detection
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
	Number     uint64                      `json:"number"`     // of the last acknowledged loss
	Unreadable map[string]schema.Sequences `json:"unreadable"` // by stream; may be acknowledged before they are reported
}

func (a acknowledged) covers(l Loss) bool {
	return l.Number <= a.Number || l.Problem == Unreadable && l.Sequences.Minus(a.Unreadable[l.Stream]).Len() == 0
}

// readAcknowledged returns what was acknowledged in a directory, which may be nothing.
func readAcknowledged(dir string) (ack acknowledged, err error) {
	if err = readJSON(filepath.Join(dir, acknowledgedFile), &ack); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return ack, err
}

// ReadLosses returns the unacknowledged losses that the ingress with its high-water
// marks in dir has reported, and the acknowledged unreadable messages by stream. The
// ingress may be running. The error wraps fs.ErrNotExist if dir has no marks.
func ReadLosses(dir string) (losses []Loss, settled map[string]schema.Sequences, err error) {
	var marks marksContent
	if err := readJSON(filepath.Join(dir, marksFile), &marks); err != nil {
		return nil, nil, err
	}
	ack, err := readAcknowledged(dir)
	if err != nil {
		return nil, nil, err
	}
	settled = make(map[string]schema.Sequences)
	maps.Copy(settled, ack.Unreadable) // covers reads that map below
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
// directory, and unreadable messages by stream, which need not have been reported. A
// running ingress applies that within seconds, and otherwise at its next start. Do
// not call it concurrently for the same directory.
func Acknowledge(dir string, losses []Loss, unreadable map[string]schema.Sequences) error {
	ack, err := readAcknowledged(dir)
	if err != nil {
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
	return access.Explain(access.Replace(filepath.Join(dir, acknowledgedFile), append(text, '\n')), dir)
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return access.Explain(err, filepath.Dir(file))
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
