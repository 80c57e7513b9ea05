package terminal

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Progress shows how far a command has come: by a line every five seconds, and on a
// terminal by a bar. It is not safe for concurrent use.
type Progress struct {
	out        io.Writer
	onTerminal bool
	every      time.Duration

	total, done uint64
	start, last time.Time
}

// NewProgress returns a progress of no events, which is written to out.
func NewProgress(out io.Writer, onTerminal bool) *Progress {
	now := time.Now()
	p := &Progress{out: out, onTerminal: onTerminal, every: 5 * time.Second, start: now, last: now}
	if onTerminal {
		p.every = 100 * time.Millisecond
	}
	return p
}

// Expect sets how many events there are, at least 1. It does nothing if that is set.
func (p *Progress) Expect(total uint64) {
	if p.total == 0 {
		p.total = total
	}
}

// Add counts one event.
func (p *Progress) Add() {
	p.done++
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	done := min(p.done, p.total)
	perSecond := float64(p.done) / now.Sub(p.start).Seconds()
	left := time.Duration(float64(p.total-done) / perSecond * float64(time.Second)).Round(time.Second)
	line := fmt.Sprintf("%d of %d events, %.0f/s, %v left", p.done, p.total, perSecond, left)
	if p.onTerminal {
		const width = 20
		fmt.Fprintf(p.out, clearLine+"[%-*s] %s", width, strings.Repeat("=", int(width*done/p.total)), line)
		return
	}
	fmt.Fprintln(p.out, line)
}

// clearLine removes what a terminal shows in the line of the cursor.
const clearLine = "\r\x1b[K"

// Note writes a line, above the bar if there is one.
func (p *Progress) Note(format string, args ...any) {
	p.Clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Clear removes the bar.
func (p *Progress) Clear() {
	if p.onTerminal {
		fmt.Fprint(p.out, clearLine)
	}
}
