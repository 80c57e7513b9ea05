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

// A process is a child of the bench with a log file of its own.
type process struct {
	pid  int
	log  string // file
	stop func() // sends SIGTERM, and returns when the process has ended
}

// own stands for the bench where its usage is measured.
var own = &process{pid: os.Getpid(), log: os.DevNull}

// startProcess starts a program with a log file in dir. When ctx is done, the
// process is sent SIGTERM, and is killed if it has not ended after 15 s. When it has
// ended, onEnd is called with an error that holds the end of the log.
func startProcess(ctx context.Context, onEnd func(error), dir, name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has it
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	isSetting := func(entry string) bool { return strings.HasPrefix(entry, "INGRESS_") }
	cmd.Env = append(slices.DeleteFunc(os.Environ(), isSetting), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal reaches the bench alone
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		text, _ := os.ReadFile(log.Name())
		onEnd(fmt.Errorf("%s has ended: %v\n%s", name, cmd.ProcessState, text[max(0, len(text)-2000):]))
		close(ended)
	}()
	return &process{pid: cmd.Process.Pid, log: log.Name(), stop: func() { cancel(); <-ended }}, nil
}

// A usage holds the resources that processes have used so far.
type usage struct {
	cpu    float64 // seconds of processor time
	memory float64 // peak of resident memory, in MiB
	log    float64 // KiB of log
}

func usageOf(processes ...*process) (sum usage, err error) {
	for _, p := range processes {
		proc, err1 := procfs.NewProc(p.pid)
		stat, err2 := proc.Stat()
		status, err3 := proc.NewStatus()
		log, err4 := os.Stat(p.log)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return sum, fmt.Errorf("reading /proc, which requires Linux: %w", err)
		}
		sum.cpu += stat.CPUTime()
		sum.memory += float64(status.VmHWM) / (1 << 20)
		sum.log += float64(log.Size()) / (1 << 10)
	}
	return sum, nil
}
