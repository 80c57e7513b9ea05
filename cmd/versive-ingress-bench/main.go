// Command versive-ingress-bench measures the ingress beside what it could be
// compared with, and proves on the way that the promise of package ingest was
// held: after every load it reads the whole stream back and compares it with
// what was answered 2xx.
//
// Every system under test is a set of processes of its own on loopback. The
// load comes from this process, over HTTP, with requests that were signed
// beforehand. Absolute figures say most about the machine; the ratios to
// the references of the same run are what counts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	// A second Ctrl-C changes nothing: all children are ended within seconds.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "versive-ingress-bench:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	b := &bench{}
	var m matrix
	var preset, ingress string
	cmd := &cobra.Command{
		Use:   "versive-ingress-bench",
		Short: "Measure the ingress against its references",
		Long: `Measure the ingress against its references, and prove that every event that was
answered 2xx is in the stream, once. Exits non-zero if not.

Presets: ` + presetNames() + `.
Targets: ` + targetNames + `.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, ok := presets[preset]
			if !ok {
				return fmt.Errorf("--preset %q: want one of %s", preset, presetNames())
			}
			cases, err := chosen.changedBy(m).withDefaults().cases()
			if err != nil {
				return err
			}
			if b.duration < 100*time.Millisecond || b.duration > maxDuration || b.warmup > maxDuration || b.rounds < 1 || b.rounds > 100 {
				return fmt.Errorf("--duration: want 100ms to %v, --warmup at most that, --rounds: want 1 to 100", maxDuration)
			}
			b.progress = cmd.ErrOrStderr()
			if err := b.prepare(cmd.Context(), ingress); err != nil {
				return err
			}
			defer os.RemoveAll(filepath.Join(b.out, "bin"))
			r, runErr := b.run(cmd.Context(), cases)
			r.writeText(cmd.OutOrStdout())
			return errors.Join(runErr, b.save(r, preset))
		},
	}
	f := cmd.Flags()
	f.StringVar(&preset, "preset", "default", "what to measure")
	f.StringSliceVar(&m.targets, "targets", nil, "instead of the preset's")
	f.IntSliceVar(&m.sizes, "sizes", nil, "of bodies, in KiB")
	f.IntSliceVar(&m.connections, "connections", nil, "at once")
	f.Float64SliceVar(&m.duplicates, "duplicates", nil, "share of requests that are resends, 0.1 for example")
	f.IntSliceVar(&m.stored, "stored", nil, "events that are in the stream beforehand")
	f.StringSliceVar(&m.floods, "floods", nil, "beside the load: 2,000 connections with bodies of 8 MiB that are forged, signed or stalled; or ninefold, nine times the load, small and forged")
	f.IntVar(&m.rate, "rate", 0, "requests a second, sent when they are due (open loop); 0: each connection as fast as it is answered")
	f.DurationVar(&b.duration, "duration", 4*time.Second, "of each load")
	f.DurationVar(&b.warmup, "warmup", time.Second, "before each load")
	f.IntVar(&b.rounds, "rounds", 3, "how often everything is measured")
	f.StringVar(&b.out, "out", filepath.Join("dist", "bench"), "folder for the results and meanwhile the data: it must be on a real disk")
	f.StringVar(&ingress, "ingress", "", "binary of the ingress; built from the current directory's module if not given")
	cmd.AddCommand(plainCommand(), naiveCommand(), brokerCommand())
	return cmd
}

// changedBy returns m with all that is set in flags.
func (m matrix) changedBy(flags matrix) matrix {
	if flags.targets != nil {
		m.targets = flags.targets
	}
	if flags.sizes != nil {
		m.sizes = flags.sizes
	}
	if flags.connections != nil {
		m.connections = flags.connections
	}
	if flags.duplicates != nil {
		m.duplicates = flags.duplicates
	}
	if flags.stored != nil {
		m.stored = flags.stored
	}
	if flags.floods != nil {
		m.floods = flags.floods
	}
	m.rate = flags.rate
	return m
}

// prepare makes the folder and the programs.
func (b *bench) prepare(ctx context.Context, ingress string) (err error) {
	if b.out, err = filepath.Abs(b.out); err != nil {
		return err
	}
	bin := filepath.Join(b.out, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if b.programs.bench, err = os.Executable(); err != nil {
		return err
	}
	if b.programs.ingress = ingress; ingress != "" {
		return nil
	}
	b.programs.ingress = filepath.Join(bin, "versive-ingress")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.programs.ingress, "versive-ingress/cmd/versive-ingress")
	build.Stderr = b.progress
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the ingress: %w", err)
	}
	return nil
}
