package terminal

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

// Progress shows how far a command has come: by a bar on a terminal, elsewhere by
// a line every five seconds. It is not safe for concurrent use.
type Progress struct {
	out        io.Writer
	onTerminal bool
	bar        *progressbar.ProgressBar // nil if it is not on a terminal, or nothing is expected yet

	total, done uint64
	start, last time.Time
}

// NewProgress returns a progress of no events, which is written to out.
func NewProgress(out io.Writer, onTerminal bool) *Progress {
	now := time.Now()
	return &Progress{out: out, onTerminal: onTerminal, start: now, last: now}
}

// Expect sets how many events there are. It does nothing if that is set.
func (p *Progress) Expect(total uint64) {
	if p.total > 0 {
		return
	}
	p.total = total
	if p.onTerminal {
		p.bar = progressbar.NewOptions64(int64(total),
			progressbar.OptionSetWriter(p.out),
			progressbar.OptionSetItsString("events"),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(barEvery),
			progressbar.OptionClearOnFinish(),
		)
	}
}

// Add counts one event.
func (p *Progress) Add() {
	p.done++
	if p.bar != nil {
		_ = p.bar.Set64(int64(min(p.done, p.total)))
		return
	}
	now := time.Now()
	if now.Sub(p.last) < lineEvery {
		return
	}
	p.last = now
	perSecond := float64(p.done) / now.Sub(p.start).Seconds()
	left := time.Duration(float64(p.total-min(p.done, p.total)) / perSecond * float64(time.Second))
	fmt.Fprintf(p.out, "%d of %d events, %.0f/s, %v left\n", p.done, p.total, perSecond, left.Round(time.Second))
}

// Note writes a line, above the bar if there is one.
func (p *Progress) Note(format string, args ...any) {
	p.Clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Clear removes the bar.
func (p *Progress) Clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
