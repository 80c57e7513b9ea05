// Command versive-ingress-bench measures the ingress beside the references that
// docs/bench.md describes. After every load it reads the whole stream back and
// checks the promise: each event that was answered 2xx is stored once.
//
// Its part of the promise (see package ingest): a run fails if an event that was
// answered 2xx is missing from the stream, is there twice, or if the stream holds
// anything else.
//
// Every system under test is a set of processes on loopback. This process sends
// the load, over HTTP, with requests that it has signed beforehand. Absolute
// figures depend on the machine; the ratios to references of the same run are
// what to read.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
		Short: "Measure the ingress beside its references",
		Long: `Measure the ingress beside its references, and verify that every event that was
answered 2xx is in the stream exactly once. docs/bench.md explains presets,
targets and figures. Where a flag takes a list, every combination is measured.

Presets: ` + strings.Join(slices.Sorted(maps.Keys(presets)), ", ") + `.
Targets: ` + targetNames + `.

EXIT STATUS
  0  everything was measured, and every stream holds what was answered 2xx
  1  a stream does not, or the run failed`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if presets[preset] == nil {
				return fmt.Errorf("--preset: there is no preset %q; see --help", preset)
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
				within("duration", b.duration, 100*time.Millisecond, maxDuration),
				within("warmup", b.warmup, 10*time.Millisecond, maxDuration),
				within("rounds", b.rounds, 1, 100),
				within("ingress", len(b.ingress), 0, 2)); err != nil {
				return err
			}
			b.progress = cmd.ErrOrStderr()
			if err := b.prepare(cmd.Context()); err != nil {
				return err
			}
			r, runErr := b.run(cmd.Context(), cases)
			return errors.Join(runErr, r.writeText(cmd.OutOrStdout()), r.save(filepath.Join(b.out, preset)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&preset, "preset", "default", "values for the flags that are not given")
	f.StringSliceVar(&m.targets, "targets", nil, "targets to measure")
	f.IntSliceVar(&m.sizes, "sizes", []int{8}, "sizes of a body, in KiB")
	f.IntSliceVar(&m.connections, "connections", []int{64, 256}, "numbers of concurrent connections")
	f.Float64SliceVar(&m.duplicates, "duplicates", []float64{0}, "shares of the requests that are resends, such as 0.1")
	f.IntSliceVar(&m.stored, "stored", []int{0}, "numbers of events that the stream holds beforehand")
	f.IntSliceVar(&m.forged, "forged", []int{0}, "numbers of forged requests beside each signed one")
	f.IntVar(&m.rate, "rate", 0, "requests a second, each sent when it is due; 0: each connection sends as soon as it has its response")
	f.DurationVar(&b.duration, "duration", 4*time.Second, "duration of each load")
	f.DurationVar(&b.warmup, "warmup", time.Second, "duration of the unmeasured load before it")
	f.IntVar(&b.rounds, "rounds", 3, "how often everything is measured; the medians are reported")
	f.StringVar(&b.out, "out", filepath.Join("dist", "bench"), "folder for the reports and, during the run, the data; it must be on a real disk")
	f.StringSliceVar(&b.ingress, "ingress", nil, "binary of the ingress; after a comma another one to measure in turns with it (default: built from this module)")
	for name, run := range references {
		cmd.AddCommand(&cobra.Command{
			Use: name, Hidden: true,
			RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) },
		})
	}
	return cmd
}

// maxDuration keeps signatures valid: they are made before the load begins, and
// the handlers accept them for five minutes.
const maxDuration = 2 * time.Minute

func within[T cmp.Ordered](flag string, v, least, most T) error {
	if v < least || v > most {
		return fmt.Errorf("--%s %v: want %v to %v", flag, v, least, most)
	}
	return nil
}

// prepare creates the output folder, and builds the ingress there if none was
// named.
func (b *bench) prepare(ctx context.Context) error {
	var err error
	b.self, err = os.Executable()
	if err := errors.Join(err, os.MkdirAll(b.out, 0o755)); err != nil || len(b.ingress) > 0 {
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
