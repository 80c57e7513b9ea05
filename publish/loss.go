package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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

// String describes the loss, without its number and time.
func (l Loss) String() string {
	if n := l.Sequences.Len(); n > 0 {
		return fmt.Sprintf("stream %s %v (%d, sequences %v)", l.Stream, l.Problem, n, l.Sequences)
	}
	return fmt.Sprintf("stream %s %v; it had no messages", l.Stream, l.Problem)
}

const (
	marksFile        = "marks.json"        // written by the ingress alone
	acknowledgedFile = "acknowledged.json" // written by [Acknowledge] alone
)

// acknowledged is the content of acknowledgedFile.
type acknowledged struct {
	Number  uint64           `json:"number"`  // of the last acknowledged loss
	Streams map[string]Found `json:"streams"` // what audits have found; may be acknowledged before it is reported
}

// Found is what an audit has found of a stream: which of its messages are lost.
type Found struct {
	Created    time.Time        `json:"created"`    // the stream; another one of its name reuses sequences
	WentBack   uint64           `json:"went_back"`  // how often the stream had gone back, which then reuses sequences
	Missing    schema.Sequences `json:"missing"`    // not in the stream, and neither erased nor expired
	Unreadable schema.Sequences `json:"unreadable"` // counted by the stream, which cannot return them
}

// isOf reports whether the sequences of f and g are those of the same messages.
func (f Found) isOf(g Found) bool { return f.Created.Equal(g.Created) && f.WentBack == g.WentBack }

// Minus returns what was found and is not in g, which is that of a stream of the same name
// or zero.
func (f Found) Minus(g Found) Found {
	if f.isOf(g) {
		f.Missing, f.Unreadable = f.Missing.Minus(g.Missing), f.Unreadable.Minus(g.Unreadable)
	}
	return f
}

// add sets the sequences of a loss in f. It returns false for a problem that audits do not
// find.
func (f *Found) add(l Loss) bool {
	switch l.Problem {
	case Unreadable:
		f.Unreadable = l.Sequences
	case Removed:
		f.Missing = l.Sequences
	default:
		return false
	}
	return true
}

// covers reports whether a loss was acknowledged. found is that of the mark of its stream.
func (a acknowledged) covers(l Loss, found Found) bool {
	if l.Number <= a.Number {
		return true
	}
	if !found.add(l) {
		return false
	}
	rest := found.Minus(a.Streams[l.Stream])
	return rest.Missing.Len()+rest.Unreadable.Len() == 0
}

// readAcknowledged returns what was acknowledged in a directory, which may be nothing.
func readAcknowledged(dir string) (ack acknowledged, err error) {
	if err = readJSON(filepath.Join(dir, acknowledgedFile), &ack); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return ack, err
}

// A Record is what a data directory has on record of the streams: the high-water marks of
// the ingress, and what was acknowledged.
type Record struct {
	marks map[string]*mark
	ack   acknowledged
}

// ReadLosses returns the unacknowledged losses that the ingress with its high-water
// marks in dir has reported, and what else is on record there. The ingress may be
// running. The error wraps fs.ErrNotExist if dir has no marks; the record then has what
// was acknowledged.
func ReadLosses(dir string) (losses []Loss, record Record, err error) {
	if record.ack, err = readAcknowledged(dir); err != nil {
		return nil, record, err
	}
	var marks marksContent
	if err := readJSON(filepath.Join(dir, marksFile), &marks); err != nil {
		return nil, record, err
	}
	record.marks = marks.Streams
	for _, l := range marks.Losses {
		if !record.ack.covers(l, record.marks[l.Stream].found()) {
			losses = append(losses, l)
		}
	}
	return losses, record, nil
}

// Acknowledged returns the sequences of a stream that were acknowledged.
func (r Record) Acknowledged(stream string) Found { return r.ack.Streams[stream] }

// Found returns a Found without sequences, for what an audit finds in the stream with the
// state info.
func (r Record) Found(info *jetstream.StreamInfo) Found {
	f := r.marks[info.Config.Name].found()
	f.Created = info.Created
	return f
}

// Missing returns the sequences of messages that the high-water mark of a stream has and
// the stream lacks: erased ones, those that the ingress has not explained yet, and lost
// ones. It returns none for a stream that was recreated. A stream without a mark must have
// all messages since its creation that have not reached maxAge, at which messages are
// removed unless it is 0. The state must be later than the record, with the list of deleted
// sequences.
func (r Record) Missing(kind schema.Kind, info *jetstream.StreamInfo, maxAge time.Duration) schema.Sequences {
	m := mark{Created: info.Created, First: max(info.Config.FirstSeq, 1), Last: info.State.LastSeq}
	if kept := r.marks[info.Config.Name]; kept != nil {
		m = *kept
		m.Ends = slices.Clone(kept.Ends)
	}
	lost := m.compare(observation{kind: kind, name: info.Config.Name, info: info, maxAge: maxAge})
	delete(lost, Recreated)
	missing := m.Suspects
	for _, sequences := range lost {
		missing = missing.Union(sequences)
	}
	return missing
}

// Acknowledge acknowledges losses that [ReadLosses] has returned for the same
// directory, and what an audit has found, by stream, which need not have been reported. A
// running ingress applies that within seconds, and otherwise at its next start. Do
// not call it concurrently for the same directory.
func Acknowledge(dir string, losses []Loss, found map[string]Found) error {
	_, record, err := ReadLosses(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ack := record.ack
	if ack.Streams == nil {
		ack.Streams = make(map[string]Found)
	}
	add := func(stream string, f Found) {
		if before := ack.Streams[stream]; before.isOf(f) {
			f.Missing, f.Unreadable = f.Missing.Union(before.Missing), f.Unreadable.Union(before.Unreadable)
		}
		ack.Streams[stream] = f
	}
	for _, l := range losses {
		ack.Number = max(ack.Number, l.Number)
		if f := record.marks[l.Stream].found(); f.add(l) {
			add(l.Stream, f)
		}
	}
	for stream, f := range found {
		add(stream, f)
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
