// Command versive-ingress-bench measures the ingress beside references, as
// docs/bench.md describes. Every system under test is a set of processes on
// loopback; this process sends the load, over HTTP. Absolute figures depend on
// the machine, so read the ratios to references of the same run.
//
// Its part of the promise (see package ingest): after every load it reads the
// whole stream back, and a run fails if an event that was answered 2xx is missing
// or stored twice, or if the stream holds anything else.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	if len(os.Args) > 1 && references[os.Args[1]] != nil {
		log.Fatalln(references[os.Args[1]](os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "versive-ingress-bench:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var b bench
	var m matrix
	var preset string
	cmd := &cobra.Command{
		Use:   "versive-ingress-bench",
		Short: "Measure the ingress beside references",
		Long: `Measure the ingress beside references, and verify that the streams hold every
event that was answered 2xx exactly once. Where a flag takes a list, every
combination is measured. docs/bench.md explains presets, targets and figures.

Presets: ` + strings.Join(slices.Sorted(maps.Keys(presets)), ", ") + `.
Targets: ` + targetNames + `.

EXIT STATUS
  0  everything was measured, and every stream holds each event that was answered
     2xx once and nothing else
  1  a stream does not, or an error or a signal ended the run`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if presets[preset] == nil {
				return fmt.Errorf("--preset %s does not exist; see --help", preset)
			}
			for flag, value := range presets[preset] {
				if cmd.Flags().Changed(flag) {
					continue
				}
				if err := cmd.Flags().Set(flag, value); err != nil {
					return err
				}
			}
			cases, err := m.cases(len(b.ingress) > 1)
			if err = errors.Join(err,
				within("duration", 100*time.Millisecond, maxDuration, b.duration),
				within("warmup", 10*time.Millisecond, maxDuration, b.warmup),
				within("rounds", 1, 100, b.rounds),
				within("ingress", 0, 2, len(b.ingress))); err != nil {
				return err
			}
			b.progress = cmd.ErrOrStderr()
			if err := b.prepare(cmd.Context()); err != nil {
				return err
			}
			r, err := b.run(cmd.Context(), cases)
			if len(r.Rows) == 0 {
				return err
			}
			return errors.Join(err, r.writeText(cmd.OutOrStdout()), r.save(filepath.Join(b.out, preset)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&preset, "preset", "default", "values for the flags that are not given")
	f.StringSliceVar(&m.targets, "targets", nil, "targets to measure")
	f.IntSliceVar(&m.sizes, "sizes", []int{8}, "body sizes in KiB")
	f.IntSliceVar(&m.connections, "connections", []int{64, 256}, "numbers of concurrent connections")
	f.Float64SliceVar(&m.duplicates, "duplicates", []float64{0}, "shares of the requests that are resends, such as 0.1")
	f.IntSliceVar(&m.stored, "stored", []int{0}, "numbers of events that the stream holds beforehand")
	f.IntSliceVar(&m.forged, "forged", []int{0}, "numbers of forged requests beside each signed one")
	f.IntVar(&m.rate, "rate", 0, "requests a second, each sent when it is due; 0: each connection sends as soon as it has its response")
	f.DurationVar(&b.duration, "duration", 4*time.Second, "duration of each load")
	f.DurationVar(&b.warmup, "warmup", time.Second, "duration of the unmeasured load before each of them")
	f.IntVar(&b.rounds, "rounds", 3, "number of times that everything is measured; medians are reported")
	f.StringVar(&b.out, "out", filepath.Join("dist", "bench"), "directory for reports and, during the run, data; it must be on a real disk")
	f.StringSliceVar(&b.ingress, "ingress", nil, "binaries of the ingress: NEW, or NEW,OLD to measure two builds in turns (default: built from this module)")
	return cmd
}

// maxDuration keeps signatures valid: requests are signed before the load begins,
// and the handlers accept them for five minutes.
const maxDuration = 2 * time.Minute

// within returns an error if a value of a flag is out of range.
func within[T cmp.Ordered](flag string, least, most T, values ...T) error {
	for _, v := range values {
		if v < least || v > most {
			return fmt.Errorf("--%s %v: want %v to %v", flag, v, least, most)
		}
	}
	return nil
}

// must returns v. It is for calls that fail only because of a bug in the bench.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// prepare creates the output directory, and builds the ingress there unless
// --ingress is given.
func (b *bench) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil || len(b.ingress) > 0 {
		return err
	}
	b.ingress = []string{filepath.Join(b.out, "versive-ingress")}
	build := exec.CommandContext(ctx, "go", "build", "-o", b.ingress[0], "versive-ingress/cmd/versive-ingress")
	build.Stderr = b.progress
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the ingress: %w", err)
	}
	return nil
}
