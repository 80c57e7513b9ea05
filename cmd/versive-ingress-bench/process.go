package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// stopTimeout is for how long a process may take to end by itself.
const stopTimeout = 15 * time.Second

// A process is a child of the bench, with a log file of its own.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string        // file
	done chan struct{} // closed when it has ended, by its own goroutine
}

// startProcess starts a program, in a process group of its own: Ctrl-C in a
// terminal reaches the bench alone, which then ends its children in order. The
// log goes to dir.
func startProcess(dir, name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has it
	cmd := exec.Command(program, args...)
	cmd.Env = append(cleanEnviron(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its log says why it ended
		close(p.done)
	}()
	return p, nil
}

// cleanEnviron is the environment without settings of an ingress.
func cleanEnviron() []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "INGRESS_") {
			env = append(env, entry)
		}
	}
	return env
}

// stop ends the process and returns when it has ended.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended: fine
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failed returns an error with the end of the log if the process has ended.
func (p *process) failed() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	text, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s has ended: %v\n%s", p.name, p.cmd.ProcessState, text[max(0, len(text)-2000):])
}

// clockTick is the unit of the times in /proc/<pid>/stat: 1/100 s on every
// Linux that Go runs on.
const clockTick = 10 * time.Millisecond

var errNoProc = errors.New("the bench measures by /proc: run it on Linux")

// cpu returns the processor time that the process has used so far.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, errors.Join(p.failed(), errNoProc, err)
	}
	// The second field is the name, which may hold spaces; the numbers begin
	// behind it with the third. utime and stime are the 14th and the 15th.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	var ticks int64
	for _, field := range fields[14-3 : 16-3] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading /proc/%d/stat: %w", p.cmd.Process.Pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// memory returns the most memory that the process has held so far, in bytes.
func (p *process) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, errors.Join(p.failed(), errNoProc, err)
	}
	_, rest, _ := bytes.Cut(text, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("reading /proc/%d/status: %w", p.cmd.Process.Pid, err)
	}
	return kib << 10, nil
}

var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(portCount)) }

// The ports of the children. They are below those that the system gives to
// outgoing connections, or one of them could take it before the child does.
const firstPort, portCount = 32_000, 768

// freeAddress returns a loopback address that nobody listens on, another one
// each time.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+int(nextPort.Add(1)%portCount)))
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", fmt.Errorf("no free port: %w", err)
}
