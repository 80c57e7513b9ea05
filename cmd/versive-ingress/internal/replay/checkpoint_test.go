package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A checkpoint that an earlier version wrote is resumed.
func TestCheckpointOfEarlierVersion(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(file, []byte(`{
  "of": {
    "stream": "VERSIVE",
    "created": "2026-01-02T03:04:05.678Z",
    "selection": {
      "study": "s"
    },
    "target": "standard output"
  },
  "run": "RUN",
  "last": 9,
  "done": {
    "events": 3,
    "erasures": 1,
    "duplicates": 0,
    "bytes": 42,
    "first": 2,
    "sequence": 5
  },
  "finished": false
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	created := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	now := func(study string) checkpoint {
		return checkpoint{Spec: spec{"VERSIVE", created, Selection{Study: study}, "standard output"}, Run: "OTHER", Last: 12}
	}
	for range 2 { // as it was, and as it is written now
		c := now("s")
		if err := c.resume(file); err != nil {
			t.Fatal(err)
		}
		if c.Spec != now("s").Spec || c.Run != "RUN" || c.Last != 9 || c.Done != (tally{3, 1, 0, 42, 2, 5}) {
			t.Errorf("got %+v", c)
		}
		other := now("other")
		if err := other.resume(file); err == nil || !strings.Contains(err.Error(), `its selection is {"study":"s"}, not {"study":"other"}`) {
			t.Errorf("of another selection: %v", err)
		}
		if err := c.write(file); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), `"of"`) {
		t.Errorf("%v, %s", err, text)
	}
}
