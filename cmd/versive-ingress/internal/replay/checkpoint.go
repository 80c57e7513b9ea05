package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish/access"
	"versive-ingress/subscribe"
)

// A checkpoint records how far a replay has come. It is never ahead of what the
// target has confirmed.
type checkpoint struct {
	Spec spec `json:"spec"`
	Of   spec `json:"of,omitzero"` // Spec, as earlier versions named it

	// Fixed at the first start.
	Run   string    `json:"run"` // distinguishes the message ids of this replay
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Last  uint64    `json:"last"` // the end, as a sequence

	Done     tally `json:"done"`
	Finished bool  `json:"finished"`
}

// A spec is what a replay is to do. A checkpoint belongs to one.
type spec struct {
	Stream    string    `json:"stream"`
	Created   time.Time `json:"created"` // the stream, which may be another of the same name
	Selection Selection `json:"selection"`
	Target    string    `json:"target"`
}

// A tally counts what a target has confirmed.
type tally struct {
	Events     uint64 `json:"events"`
	Erasures   uint64 `json:"erasures"`
	Duplicates uint64 `json:"duplicates"` // of them, those that the target had before
	Bytes      uint64 `json:"bytes"`      // of data
	First      uint64 `json:"first"`      // sequence of the first of them; 0 if there is none
	Sequence   uint64 `json:"sequence"`   // of the last of them
}

// add counts a message that the target has confirmed.
func (t *tally) add(m subscribe.Message, duplicate bool) {
	if m.Erased() {
		t.Erasures++
	} else {
		t.Events++
	}
	if duplicate {
		t.Duplicates++
	}
	if t.First == 0 {
		t.First = m.Sequence
	}
	t.Bytes += uint64(m.Size)
	t.Sequence = m.Sequence
}

func (t tally) String() string {
	s := fmt.Sprintf("%s and %s, %.1f MB", terminal.Plural(t.Events, "event", "events"), erasures(t.Erasures), float64(t.Bytes)/1e6)
	if t.First > 0 {
		s += fmt.Sprintf(", sequences %d to %d", t.First, t.Sequence)
	}
	return s
}

func erasures(n uint64) string { return terminal.Plural(n, "erasure", "erasures") }

// resume replaces c by the content of the file, if it exists. It returns an error if
// that is the checkpoint of another replay.
func (c *checkpoint) resume(file string) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--checkpoint: %w", access.Explain(err, ""))
	}
	var earlier checkpoint
	if err := json.Unmarshal(text, &earlier); err != nil || earlier.Run == "" {
		return fmt.Errorf("--checkpoint: %s is not a checkpoint of a replay", file)
	}
	if earlier.Of != (spec{}) {
		earlier.Spec, earlier.Of = earlier.Of, spec{}
	}
	was, is := earlier.Spec, c.Spec
	for _, member := range []struct {
		name    string
		was, is any
	}{
		{"stream", was.Stream, is.Stream},
		{"stream's time of creation", was.Created.UTC(), is.Created.UTC()},
		{"target", was.Target, is.Target},
		{"selection", was.Selection, is.Selection},
	} {
		if member.was != member.is {
			return fmt.Errorf("--checkpoint: %s belongs to another replay: its %s is %v, not %v; give another file, or remove it", file, member.name, member.was, member.is)
		}
	}
	*c = earlier
	return nil
}

// write durably replaces the file by c.
func (c *checkpoint) write(file string) error {
	text, err := json.Marshal(c, jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	if err := access.Replace(file, append(text, '\n')); err != nil {
		return fmt.Errorf("--checkpoint: %w", access.Explain(err, ""))
	}
	return nil
}
