package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A checkpoint says how far a replay has come. It is never ahead of what the
// target has confirmed.
type checkpoint struct {
	Of assignment `json:"of"`

	// Fixed at the first start.
	Run   string    `json:"run"` // tells this replay's messages from those of another
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Last  uint64    `json:"last"` // the end, as a sequence

	Done     tally `json:"done"`
	Finished bool  `json:"finished"`
}

// An assignment is what a replay is to do: to it a checkpoint belongs.
type assignment struct {
	Stream    string    `json:"stream"`
	Created   time.Time `json:"created"` // the stream, which may be another of the same name
	Selection Selection `json:"selection"`
	Target    string    `json:"target"`
}

// tally counts what a target has confirmed.
type tally struct {
	Events     uint64 `json:"events"`
	Erasures   uint64 `json:"erasures"`
	Duplicates uint64 `json:"duplicates"` // of them, those that the target had before
	Bytes      uint64 `json:"bytes"`      // of data
	First      uint64 `json:"first"`      // sequence of the first of them; 0 if there is none
	Sequence   uint64 `json:"sequence"`   // of the last of them
}

// add counts a message that the target has confirmed.
func (t *tally) add(r receipt) {
	if r.erased {
		t.Erasures++
	} else {
		t.Events++
	}
	if r.duplicate {
		t.Duplicates++
	}
	if t.First == 0 {
		t.First = r.sequence
	}
	t.Bytes += uint64(r.size)
	t.Sequence = r.sequence
}

func (t tally) String() string {
	s := fmt.Sprintf("%d events and %d erasures, %.1f MB", t.Events, t.Erasures, float64(t.Bytes)/1e6)
	if t.First > 0 {
		s += fmt.Sprintf(", sequences %d to %d", t.First, t.Sequence)
	}
	return s
}

// readCheckpoint returns nil if there is no such file, and an error if what is
// in it belongs to another replay.
func readCheckpoint(file string, of assignment) (*checkpoint, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--checkpoint: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(text, &c); err != nil || c.Run == "" {
		return nil, fmt.Errorf("--checkpoint: %s is not a checkpoint of a replay", file)
	}
	differ := func(what string, was, is any) (*checkpoint, error) {
		return nil, fmt.Errorf("--checkpoint: %s belongs to another replay: its %s is %v, not %v; give another file, or remove it", file, what, was, is)
	}
	switch was := c.Of; {
	case was.Stream != of.Stream:
		return differ("stream", was.Stream, of.Stream)
	case !was.Created.Equal(of.Created):
		return differ("stream's time of creation", was.Created, of.Created)
	case was.Target != of.Target:
		return differ("target", was.Target, of.Target)
	case was.Selection != of.Selection:
		return differ("selection", was.Selection, of.Selection)
	}
	return &c, nil
}

// write replaces the file as a whole: whoever reads it, after a crash too,
// finds the old checkpoint or the new one.
func (c *checkpoint) write(file string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("--checkpoint: %w", err)
		}
	}()
	text, err := json.Marshal(c, jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	next := file + ".tmp"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, file)
	}
	return err
}
