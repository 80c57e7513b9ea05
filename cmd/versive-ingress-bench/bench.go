package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A bench runs cases.
type bench struct {
	programs programs
	warmup   time.Duration
	duration time.Duration
	rounds   int
	out      string    // folder for the report and, meanwhile, the data
	progress io.Writer // a line for each measurement
}

// run measures all cases once in every round, and those that are compared with
// each other next to each other: what disturbs the machine for a while then
// disturbs all of them alike. When ctx ends or a measurement fails
// it returns what there is until then, with the error.
func (b *bench) run(ctx context.Context, cases []testCase) (*report, error) {
	r := &report{Started: time.Now(), Machine: thisMachine(), Rounds: b.rounds, Duration: b.duration.Seconds()}
	for _, c := range cases {
		r.Rows = append(r.Rows, row{testCase: c})
	}
	order := make([]*row, len(r.Rows))
	for i := range r.Rows {
		order[i] = &r.Rows[i]
	}
	slices.SortStableFunc(order, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Connections, b.Connections))
	})
	for round := range b.rounds {
		fsync, err := fsyncTime(b.out)
		if err != nil {
			return r, err
		}
		r.Fsync = append(r.Fsync, fsync)
		for _, row := range order {
			name := fmt.Sprintf("%s, %s, %d connections", row.label(), kib(row.Size), row.Connections)
			m, err := b.measure(ctx, row.testCase)
			if ctx.Err() != nil {
				return r, context.Cause(ctx) // the rest follows from it
			}
			if err != nil {
				return r, fmt.Errorf("%s: %w", name, err)
			}
			row.Rounds = append(row.Rounds, m)
			row.Median = median(row.Rounds)
			fmt.Fprintf(b.progress, "round %d of %d: %s: %.0f requests/s, p99 %.1f ms, %.0f µs CPU; %d answered 2xx, %d stored\n",
				round+1, b.rounds, name, m.Rate, m.P99, m.CPU, m.Proof.Accepted, m.Proof.Stored)
		}
	}
	return r, nil
}

// save writes the report into the bench's folder, in all its forms.
func (b *bench) save(r *report, name string) error {
	return errors.Join(
		writeFile(filepath.Join(b.out, name+".json"), func(w io.Writer) error {
			return json.MarshalWrite(w, r, jsontext.WithIndent("  "))
		}),
		writeFile(filepath.Join(b.out, name+".md"), func(w io.Writer) error {
			r.writeMarkdown(w)
			return nil
		}),
		writeFile(filepath.Join(b.out, name+".svg"), r.writeSVG),
	)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
