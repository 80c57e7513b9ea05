package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	faults = append(faults,
		fault{"write-fails", false, failWrites},
		fault{"disk-full", true, fillDisk},
	)
}

// failWrites makes writes to the ingress's files fail at some point, as a bad
// or a full disk does; it needs no root. The embedded broker has to recover from that.
func failWrites(r *round) {
	s := r.settings()
	cmd := r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{senders: 24}, s)
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

// fillDisk lets something else fill the disk that the streams are on, and
// takes it away again. The store's limit is set too high on purpose.
func fillDisk(r *round) {
	s := r.settings()
	err := syscall.Mount("tmpfs", s.DataDir, "tmpfs", 0, "size=256m")
	if errors.Is(err, syscall.EPERM) {
		r.Fatal("this fault mounts a small file system, which needs root: run it as root, or choose others by -chaos.faults")
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := syscall.Unmount(s.DataDir, 0); err != nil {
			r.Error(err)
		}
	})
	s.MaxStore = 1 << 30
	r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{senders: 24}, s)
	junk := filepath.Join(s.DataDir, "junk")
	r.times(2, func() {
		fillFile(r, junk, r.random.Int64N(256<<10))
		r.storm.awaitRefused(r)
		r.pause(0, 2*time.Second)
		if err := os.Remove(junk); err != nil {
			r.Fatal(err)
		}
		awaitReady(r, s)
	})
	r.settle()
	r.check(r.dialEmbedded(s), s.Stream)
}

// fillFile lets a file have all of its disk but some bytes.
func fillFile(t testing.TB, path string, left int64) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for {
		if _, err := file.Write(make([]byte, 64<<10)); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(max(size-left, 0)); err != nil {
		t.Fatal(err)
	}
}
