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

// progress tells how far a command has come: with a bar on a terminal, with a
// line now and then elsewhere.
type progress struct {
	out   io.Writer
	bar   *progressbar.ProgressBar // nil if it is not on a terminal
	every time.Duration

	total, done uint64
	start, last time.Time
}

// newProgress is for total events. A nil *progress is silent.
func newProgress(out io.Writer, total uint64, bar bool) *progress {
	now := time.Now()
	p := &progress{out: out, every: lineEvery, total: total, start: now, last: now}
	if bar && total > 0 {
		p.every = barEvery
		p.bar = progressbar.NewOptions64(int64(total),
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetItsString("events"),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetWidth(30),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// add counts one event.
func (p *progress) add() {
	if p == nil {
		return
	}
	p.done++
	now := time.Now()
	if now.Sub(p.last) < p.every {
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
