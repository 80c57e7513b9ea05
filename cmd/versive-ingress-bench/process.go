package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// A process is a part of a system, or the bench itself.
type process struct {
	role string // service, broker or load
	pid  int
	log  string // file
	stop func() // sends SIGTERM, and returns when the process has ended
}

var own = &process{role: "load", pid: os.Getpid(), log: os.DevNull}

// startProcess adds a process to the system. When the system's context is done, the
// process is sent SIGTERM, and is killed if it has not ended after 15 s. When it has
// ended, the system fails with an error that holds the end of its log.
func (sys *system) startProcess(role, name string, env []string, program string, args ...string) error {
	log, err := os.Create(filepath.Join(sys.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the child has it
	ctx, cancel := context.WithCancel(sys.ctx)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	isSetting := func(entry string) bool { return strings.HasPrefix(entry, "INGRESS_") }
	cmd.Env = append(slices.DeleteFunc(os.Environ(), isSetting), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal reaches the bench alone
	if err := cmd.Start(); err != nil {
		cancel()
		return fmt.Errorf("starting %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		text, _ := os.ReadFile(log.Name())
		sys.fail(fmt.Errorf("%s has ended: %v\n%s", name, cmd.ProcessState, text[max(0, len(text)-2000):]))
		close(ended)
	}()
	stop := func() {
		cancel()
		<-ended
	}
	sys.processes = append(sys.processes, &process{role, cmd.Process.Pid, log.Name(), stop})
	return nil
}

// A usage holds the resources that processes have used so far.
type usage struct {
	cpu    float64 // seconds of processor time
	memory float64 // peak of resident memory, in MiB
	log    float64 // KiB of log
}

// usage returns the sums for each role.
func (sys *system) usage() (map[string]usage, error) {
	sums := make(map[string]usage)
	for _, p := range slices.Concat(sys.processes, []*process{own}) {
		proc, err1 := procfs.NewProc(p.pid)
		stat, err2 := proc.Stat()
		status, err3 := proc.NewStatus()
		log, err4 := os.Stat(p.log)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return nil, fmt.Errorf("reading /proc, which requires Linux: %w", err)
		}
		sum := sums[p.role]
		sum.cpu += stat.CPUTime()
		sum.memory += float64(status.VmHWM) / (1 << 20)
		sum.log += float64(log.Size()) / (1 << 10)
		sums[p.role] = sum
	}
	return sums, nil
}
