package main

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	faults = append(faults, fault{"write-fails", false, failWrites})
}

// failWrites makes writes to the ingress's files fail at some point, as a bad
// or a full disk does; it needs no root. The embedded broker has to recover from that.
func failWrites(r *round) {
	s := r.settings()
	cmd := r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{senders: 24, think: 5 * time.Millisecond}, s)
	r.times(2, func() {
		lift := limitFiles(r, cmd, largestFile(r, s.DataDir)+r.random.Int64N(64<<10))
		r.storm.awaitRefused(r)
		r.pause(0, 500*time.Millisecond)
		lift()
		awaitReady(r, s)
	})
	r.settle()
	r.check(r.dialEmbedded(s), s.Stream)
}

// limitFiles makes every write beyond size in a file fail for a process, until
// lift is called.
func limitFiles(t testing.TB, cmd *exec.Cmd, size int64) (lift func()) {
	t.Helper()
	var before unix.Rlimit
	set := func(l, old *unix.Rlimit) {
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, l, old); err != nil {
			t.Fatal(err)
		}
	}
	set(nil, &before)
	set(&unix.Rlimit{Cur: uint64(size), Max: before.Max}, nil)
	return func() { set(&before, nil) }
}

func largestFile(t testing.TB, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size = max(size, info.Size())
		}
		if errors.Is(err, fs.ErrNotExist) { // a batch's, and gone
			err = nil
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return size
}
