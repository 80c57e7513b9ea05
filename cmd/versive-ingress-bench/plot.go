package main

import (
	"bytes"
	"fmt"
	"slices"
)

// Lengths in the plot, in pixels.
const (
	labelWidth = 400
	panelWidth = 250
	valueWidth = 70 // beside the longest bar
	barHeight  = 16
	lineHeight = 22
	top        = 50
)

// svg returns a plot with a panel for each of the compared figures and in it a bar
// for each row: the median, with a line from the lowest to the highest round.
func (r *report) svg() []byte {
	rows := slices.DeleteFunc(slices.Clone(r.Rows), func(row row) bool { return len(row.Rounds) == 0 })
	colors := []string{"#2f6fab", "#b5651d", "#4b8b3b"}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		labelWidth+len(compared)*panelWidth, top+lineHeight*len(rows)+10)
	fmt.Fprintln(&out, `<rect width="100%" height="100%" fill="white"/>`)
	for i, row := range rows {
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n",
			labelWidth-10, top+i*lineHeight+13, row)
	}
	for p, figure := range compared {
		left := labelWidth + p*panelWidth
		fmt.Fprintf(&out, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, top-15, figure.title)
		largest := 1e-9
		for _, row := range rows {
			largest = max(largest, slices.Max(row.values(figure)))
		}
		x := func(v float64) float64 { return float64(left) + v/largest*(panelWidth-valueWidth) }
		for i, row := range rows {
			y, v, values := top+i*lineHeight, figure.of(row.Median), row.values(figure)
			high := x(slices.Max(values))
			fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, x(v)-x(0), barHeight, colors[p])
			fmt.Fprintf(&out, `<path d="M%.1f %dH%.1f" stroke="black"/>`+"\n", x(slices.Min(values)), y+barHeight/2, high)
			fmt.Fprintf(&out, `<text x="%.1f" y="%d">%s</text>`+"\n", high+5, y+13, number(v))
		}
	}
	fmt.Fprintln(&out, "</svg>")
	return out.Bytes()
}

// values returns a figure of each round.
func (r row) values(f figure) []float64 {
	var values []float64
	for _, round := range r.Rounds {
		values = append(values, f.of(round))
	}
	return values
}
