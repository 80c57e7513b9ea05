package terminal

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// Where there is no terminal, a line now and then tells count, rate and time
// left.
func TestProgressLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, false)
		p.Expect(100)
		for range 12 {
			time.Sleep(time.Second)
			p.Add()
		}
		p.Note("the end of %d", 12)
		if want := "5 of 100 events, 1/s, 1m35s left\n10 of 100 events, 1/s, 1m30s left\nthe end of 12\n"; out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	})
}

func TestProgressBar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, true)
		p.Expect(100)
		for range 25 {
			time.Sleep(time.Second)
			p.Add()
		}
		last := out.Bytes()[bytes.LastIndexByte(bytes.TrimRight(out.Bytes(), "\r "), '\r'):]
		for _, want := range []string{"25%", "25/100", "60 events/min", ":1m15s]"} {
			if !bytes.Contains(last, []byte(want)) {
				t.Errorf("%q lacks %q", last, want)
			}
		}
		out.Reset()
		p.Note("a line")
		if !bytes.HasSuffix(out.Bytes(), []byte("\ra line\n")) {
			t.Errorf("the bar stays in front of a line: %q", &out)
		}
	})
}
