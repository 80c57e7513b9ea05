package main

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

// progress shows how far a command has come: with a bar on a terminal, with a
// line now and then elsewhere. A nil *progress is silent.
type progress struct {
	out        io.Writer
	onTerminal bool
	bar        *progressbar.ProgressBar // nil if it is not on a terminal, or nothing is expected yet

	total, done uint64
	start, last time.Time
}

func newProgress(out io.Writer, onTerminal bool) *progress {
	now := time.Now()
	return &progress{out: out, onTerminal: onTerminal, start: now, last: now}
}

// expect sets how many events there are, unless it is set.
func (p *progress) expect(total uint64) {
	if p == nil || p.total > 0 {
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
			progressbar.OptionClearOnFinish(),
		)
	}
}

// add counts one event.
func (p *progress) add() {
	if p == nil {
		return
	}
	p.done++
	now, every := time.Now(), lineEvery
	if p.bar != nil {
		every = barEvery
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	if p.bar != nil {
		_ = p.bar.Set64(int64(min(p.done, p.total)))
		return
	}
	perSecond := float64(p.done) / now.Sub(p.start).Seconds()
	left := time.Duration(float64(p.total-min(p.done, p.total)) / perSecond * float64(time.Second))
	fmt.Fprintf(p.out, "%d of %d events, %.0f/s, %v left\n", p.done, p.total, perSecond, left.Round(time.Second))
}

// note writes a line of its own.
func (p *progress) note(format string, args ...any) {
	if p == nil {
		return
	}
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// clear takes the bar away.
func (p *progress) clear() {
	if p != nil && p.bar != nil {
		_ = p.bar.Clear()
	}
}
