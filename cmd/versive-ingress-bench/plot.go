package main

import (
	"bytes"
	"fmt"
	"slices"
)

// svg returns a plot with a panel for each of the compared figures and in it a bar
// for each row: the median, with a line from the lowest to the highest round.
func (r *report) svg() []byte {
	const labelWidth, panelWidth, valueWidth, barHeight, lineHeight, top = 400, 250, 70, 16, 22, 50 // pixels
	colors := []string{"#2f6fab", "#b5651d", "#4b8b3b"}
	var out bytes.Buffer
	add := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`,
		labelWidth+len(compared)*panelWidth, top+lineHeight*len(r.Rows)+10)
	add(`<rect width="100%%" height="100%%" fill="white"/>`)
	for i, row := range r.Rows {
		add(`<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-10, top+i*lineHeight+13, row)
	}
	for p, title := range compared {
		left := labelWidth + p*panelWidth
		add(`<text x="%d" y="%d" font-weight="bold">%s</text>`, left, top-15, title)
		values := make([][]float64, len(r.Rows)) // of the rounds
		largest := 1e-9
		for i, row := range r.Rows {
			for _, round := range row.Rounds {
				values[i] = append(values[i], round[title])
			}
			largest = max(largest, slices.Max(values[i]))
		}
		width := func(v float64) float64 { return v / largest * (panelWidth - valueWidth) }
		for i, row := range r.Rows {
			y, v := top+i*lineHeight, row.Median[title]
			low, high := float64(left)+width(slices.Min(values[i])), float64(left)+width(slices.Max(values[i]))
			add(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, width(v), barHeight, colors[p])
			add(`<path d="M%.1f %dH%.1f" stroke="black"/>`, low, y+barHeight/2, high)
			add(`<text x="%.1f" y="%d">%s</text>`, high+5, y+13, number(v))
		}
	}
	add("</svg>")
	return out.Bytes()
}
