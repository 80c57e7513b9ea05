package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// A process is a child of the bench with a log file of its own.
type process struct {
	name string
	pid  int
	cmd  *exec.Cmd
	log  string        // file
	done chan struct{} // closed when the process has ended
}

// self stands for the bench where its usage is measured.
var self = &process{pid: os.Getpid(), log: os.DevNull}

// startProcess starts a program in a process group of its own: Ctrl-C in a
// terminal then reaches the bench alone, which stops its children in order. The
// log file is in dir.
func startProcess(dir, name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has it
	cmd := exec.Command(program, args...)
	isSetting := func(entry string) bool { return strings.HasPrefix(entry, "INGRESS_") }
	cmd.Env = append(slices.DeleteFunc(os.Environ(), isSetting), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, pid: cmd.Process.Pid, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // failed reports it
		close(p.done)
	}()
	return p, nil
}

// stop ends the process, by force after 15 s, and waits for its end. It may be
// called concurrently.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failed returns an error with the end of the log if the process has ended.
func (p *process) failed() error {
	select {
	case <-p.done:
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s has ended: %v\n%s", p.name, p.cmd.ProcessState, text[max(0, len(text)-2000):])
	default:
		return nil
	}
}

// A usage holds what processes have used so far.
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
			return sum, fmt.Errorf("reading /proc, which only Linux has: %w", err)
		}
		sum.cpu += stat.CPUTime()
		sum.memory += float64(status.VmHWM) / (1 << 20)
		sum.log += float64(log.Size()) / (1 << 10)
	}
	return sum, nil
}

// The ports of the children. They are below those that the system gives to
// outgoing connections, one of which could otherwise take a port before the child
// does.
const firstPort, portCount = 32_000, 768

var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(portCount)) }

// freeAddresses returns n distinct loopback addresses that nothing listens on,
// different ones each time.
func freeAddresses(n int) (addresses []string, err error) {
	for range portCount {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+int(nextPort.Add(1)%portCount)))
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err != nil {
			continue
		}
		listener.Close()
		if addresses = append(addresses, address); len(addresses) == n {
			return addresses, nil
		}
	}
	return nil, fmt.Errorf("no free ports: %w", err)
}
