// Package faultdisk provides tests with a disk that fails as real disks do, with a real
// file system on it: a power cut loses data that was not flushed, and writes and
// flushes can fail. It serves to test the promise of the ingress that a 2xx answer
// means a durable event.
//
// A disk is a loop device on a file of a FUSE file system that the test process serves
// from memory. The page cache, journal and error handling are those of the kernel. It
// needs Linux, root, /dev/fuse and loop devices; a test is skipped where they are
// missing.
//
// The package is only for tests.
package faultdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Size is the size of a disk in bytes. A disk takes memory only for written pages.
const Size = 1 << 30

// A Kind is a type of file system, named as by mkfs and mount.
type Kind string

// The supported file systems.
const (
	Ext4  Kind = "ext4"
	XFS   Kind = "xfs"
	Btrfs Kind = "btrfs"
)

// Kinds lists all supported file systems.
var Kinds = []Kind{Ext4, XFS, Btrfs}

// Missing returns why this machine cannot have a disk with a file system of this kind,
// or "" if it can.
func Missing(kind Kind) string {
	if os.Geteuid() != 0 {
		return "mounting needs root"
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if err := unix.Access(device, unix.R_OK|unix.W_OK); err != nil {
			return device + ": " + err.Error()
		}
	}
	if _, err := exec.LookPath("mkfs." + string(kind)); err != nil {
		return err.Error()
	}
	_ = exec.Command("modprobe", string(kind)).Run() // it may be built in
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(known), "\t"+string(kind)+"\n") {
		return "the kernel has no " + string(kind)
	}
	return ""
}

// A When decides which requests fail. It gets the number of the request, counted from
// 1 since the fault was set, and the data of a write. It must neither retain the data
// nor call a method of the disk.
type When func(n int, data []byte) bool

// Always makes every request fail.
func Always() When { return Every(1) }

// Every makes every nth request fail.
func Every(n int) When { return func(i int, _ []byte) bool { return i%n == 0 } }

// Holding makes writes fail that contain part and for which when returns true, where
// when counts only writes that contain part. It can spare the file system's metadata,
// whose failure makes the file system read-only.
func Holding(part []byte, when When) When {
	seen := 0
	return func(_ int, data []byte) bool {
		if !bytes.Contains(data, part) {
			return false
		}
		seen++
		return when(seen, data)
	}
}

// A Disk is a disk with a mounted file system. Its methods are safe for concurrent use,
// except Remount, which only the test's goroutine may call.
type Disk struct {
	Dir string // the root of the file system

	t     testing.TB
	kind  Kind
	image *image
	fuse  string // mount point of the FUSE file system
}

// New returns an empty disk with a mounted file system. The disk is removed when the
// test ends, even if the test process is killed. New skips the test where a disk is not
// possible; see Missing.
func New(t testing.TB, kind Kind) *Disk {
	t.Helper()
	if why := Missing(kind); why != "" {
		t.Skipf("NOT CHECKED: no fault disk with %s: %s", kind, why)
	}
	top := t.TempDir()
	d := &Disk{Dir: filepath.Join(top, "disk"), t: t, kind: kind, image: newImage(), fuse: filepath.Join(top, "image")}
	for _, dir := range []string{d.Dir, d.fuse} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.guard()
	d.serve()

	for deadline := time.Now().Add(time.Minute); ; {
		mkfs := exec.Command("mkfs."+string(kind), d.file())
		if kind == Ext4 {
			// Otherwise the kernel initializes tables in the background.
			mkfs.Args = append(mkfs.Args, "-E", "lazy_itable_init=0,lazy_journal_init=0")
		}
		out, err := mkfs.CombinedOutput()
		if err == nil {
			break
		}
		// mkfs.btrfs looks at every mounted loop device, one of which may have been removed meanwhile.
		if !strings.Contains(string(out), "cannot check mount status") || time.Now().After(deadline) {
			t.Fatalf("%v: %v\n%s", mkfs, err, out)
		}
	}
	d.mount()
	return d
}

// file returns the path of the image.
func (d *Disk) file() string { return filepath.Join(d.fuse, "image") }

// FailWrites makes writes to the disk fail with EIO, until the next call; nil lifts the
// fault. A failed write changes nothing.
func (d *Disk) FailWrites(when When) { d.image.setFault(opWrite, when) }

// FailSyncs makes flushes of the disk's cache fail with EIO, until the next call; nil
// lifts the fault. The data stays in the disk's cache: a later flush may make it
// durable, and a power cut may lose it.
func (d *Disk) FailSyncs(when When) { d.image.setFault(opFlush, when) }

// FailedWrites returns how many writes have failed since the fault was set.
func (d *Disk) FailedWrites() int { return d.image.failed(opWrite) }

// FailedSyncs returns how many flushes have failed since the fault was set.
func (d *Disk) FailedSyncs() int { return d.image.failed(opFlush) }

// Works reports whether the file system accepts writes. After a failed write of its
// metadata it does not, until Remount.
func (d *Disk) Works() bool {
	file, err := os.CreateTemp(d.Dir, "probe")
	if err != nil {
		return false
	}
	defer os.Remove(file.Name())
	defer file.Close()
	return file.Sync() == nil
}

// Cut simulates a power cut. From then on every request of the mounted file system
// fails. Data that was written but not flushed is lost. If random is not nil, a random
// part of it survives, in pages of 4 KiB and in any order, as on a disk that has
// written back some of its cache.
//
// A process that uses the file system would get EIO, which a real power cut leaves no
// time for: stop the process before (SIGSTOP) and kill it afterwards. Then call
// Remount.
func (d *Disk) Cut(random *rand.Rand) { d.image.cut(random) }

// Remount unmounts the file system and mounts it again, as a reboot does: it drops the
// page cache, and after a power cut the file system recovers from its journal. It lifts
// all faults before, and waits until no process has a file open on the disk.
func (d *Disk) Remount() {
	d.t.Helper()
	if err := d.unmount(); err != nil {
		d.t.Fatal(err)
	}
	d.mount()
}

// Fill takes all space of the file system but about so many bytes, until Free.
func (d *Disk) Fill(left int64) {
	d.t.Helper()
	f, err := os.Create(d.filler())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var size int64
	for part := int64(Size); part >= 1<<20; {
		err := unix.Fallocate(int(f.Fd()), 0, size, part)
		switch {
		case err == nil:
			size += part
		case errors.Is(err, unix.ENOSPC):
			part /= 2
		default:
			d.t.Fatal(err)
		}
	}
	if err := f.Truncate(max(0, size-left)); err != nil {
		d.t.Fatal(err)
	}
}

// Free gives back the space that Fill has taken.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Disk) filler() string { return filepath.Join(d.Dir, "filler") }
