package main

import (
	"fmt"
	"html"
	"io"
)

// Sizes of the plot, in pixels.
const (
	labelWidth = 330
	panelWidth = 250
	barHeight  = 16
	lineHeight = 22
	titleSpace = 50
)

var panels = []struct {
	title, color string
	figure       func(*measurement) *float64
}{
	{"requests/s", "#2f6fab", rate},
	{"p99, ms", "#b5651d", p99},
	{"CPU, µs a request", "#4b8b3b", cpu},
}

// writeSVG writes a bar for each row and figure, with a thin line from its
// lowest to its highest round.
func (r *report) writeSVG(w io.Writer) error {
	height := titleSpace + lineHeight*len(r.Rows) + 10
	width := labelWidth + len(panels)*panelWidth
	out := &errWriter{w: w}
	out.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	out.printf(`<rect width="100%%" height="100%%" fill="white"/>` + "\n")
	for i, row := range r.Rows {
		label := fmt.Sprintf("%s, %s, %d conns", row.label(), kib(row.Size), row.Connections)
		out.printf(`<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-10, titleSpace+i*lineHeight+13, html.EscapeString(label))
	}
	for p, panel := range panels {
		left := labelWidth + p*panelWidth
		out.printf(`<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, titleSpace-15, html.EscapeString(panel.title))
		largest := 0.0
		for _, row := range r.Rows {
			for i := range row.Rounds {
				largest = max(largest, *panel.figure(&row.Rounds[i]))
			}
		}
		scale := func(v float64) float64 { return v / max(largest, 1e-9) * (panelWidth - 70) }
		for i, row := range r.Rows {
			top := titleSpace + i*lineHeight
			v := *panel.figure(&row.Median)
			out.printf(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, top, scale(v), barHeight, panel.color)
			var values []float64
			for n := range row.Rounds {
				values = append(values, *panel.figure(&row.Rounds[n]))
			}
			low, high := extremes(values)
			out.printf(`<path d="M%.1f %dH%.1f" stroke="black"/>`+"\n", float64(left)+scale(low), top+barHeight/2, float64(left)+scale(high))
			out.printf(`<text x="%.1f" y="%d">%s</text>`+"\n", float64(left)+scale(high)+5, top+13, number(v))
		}
	}
	out.printf("</svg>\n")
	return out.err
}

// errWriter remembers the first error of its writes.
type errWriter struct {
	w   io.Writer
	err error
}

func (w *errWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}
