package terminal

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Where there is no terminal, a line now and then has count, rate and remaining
// time.
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
		shown := out.String()
		if want := "\r\x1b[K[=====               ] 25 of 100 events, 1/s, 1m15s left"; !strings.HasSuffix(shown, want) || strings.Contains(shown, "\n") {
			t.Errorf("got %q, want %q at the end", shown, want)
		}
		out.Reset()
		p.Note("a line")
		p.Clear()
		if want := "\r\x1b[Ka line\n\r\x1b[K"; out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	})
}
