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
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
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

// serve mounts the FUSE file system with the image.
func (d *Disk) serve() {
	d.t.Helper()
	// The library's own mount lets child processes inherit the descriptor, so that the
	// file system would wait for answers after this process has died.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		d.t.Fatalf("opening /dev/fuse: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("faultdisk", d.fuse, "fuse.faultdisk", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		d.t.Fatalf("mounting %s: %v", d.fuse, err)
	}
	server, err := fs.Mount(fmt.Sprintf("/dev/fd/%d", fd), &root{image: d.image}, &fs.Options{
		MountOptions: fuse.MountOptions{MaxWrite: 1 << 20, DisableXAttrs: true, DisableSplice: true},
	})
	d.t.Cleanup(func() {
		if err := d.unmount(); err != nil {
			d.t.Error(err)
			_ = unix.Unmount(d.Dir, unix.MNT_DETACH)
			_ = unix.Unmount(d.fuse, unix.MNT_FORCE) // ends the server, although a loop device has the image
		}
		if err := unix.Unmount(d.fuse, unix.MNT_DETACH); err != nil {
			d.t.Errorf("unmounting %s: %v", d.fuse, err)
		}
		if server != nil {
			server.Wait() // until the loop device, too, has closed the image
		}
	})
	if err != nil {
		d.t.Fatalf("serving %s: %v", d.fuse, err)
	}
}

// mount mounts the file system on a new loop device, which is removed with the mount.
func (d *Disk) mount() {
	d.t.Helper()
	mount := exec.Command("mount", "-t", string(d.kind), "-o", "loop", d.file(), d.Dir)
	if out, err := mount.CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %v\n%s", mount, err, out)
	}
	// The kernel splits larger requests into FUSE requests. If one of those fails, but not
	// the first, the loop device reports success.
	if err := os.WriteFile(filepath.Join(d.loop(), "queue", "max_sectors_kb"), []byte("512"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// unmount lifts all faults, unmounts the file system when no process has a file open
// there, and waits until the kernel has released it.
func (d *Disk) unmount() error {
	for o := range d.image.faults {
		d.image.setFault(op(o), nil)
	}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := unix.Unmount(d.Dir, 0)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL): // EINVAL: it is not mounted
			if d.loop() == "" {
				return nil
			}
			err = errors.New("a loop device still has it")
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmounting %s: %w", d.Dir, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("unmounting %s: %w; it is in use by %q", d.Dir, err, d.users())
		}
		runtime.GC() // closes files that a broker of this process has left open
	}
}

// users returns what in /proc has the file system, or the loop device: open files, and other
// mount namespaces.
func (d *Disk) users() (list []string) {
	loop := "/dev/" + filepath.Base(d.loop())
	for _, pattern := range []string{"fd/*", "cwd", "map_files/*"} {
		links, _ := filepath.Glob("/proc/[0-9]*/" + pattern)
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && (strings.HasPrefix(target, d.Dir) || target == loop) {
				list = append(list, link)
			}
		}
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	namespaces, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, link := range namespaces {
		namespace, err := os.Readlink(link)
		mounts, _ := os.ReadFile(filepath.Join(link, "../../mountinfo"))
		if err == nil && namespace != own && strings.Contains(string(mounts), d.Dir) {
			list = append(list, link)
		}
	}
	return list
}

// loop returns the directory in sysfs of the loop device that has the image, or "". A
// device can still have it after unmount, because the file system is still mounted in
// another mount namespace. XFS cannot be mounted twice.
func (d *Disk) loop() string {
	loops, _ := filepath.Glob("/sys/block/loop*")
	for _, loop := range loops {
		file, err := os.ReadFile(filepath.Join(loop, "loop", "backing_file"))
		if err == nil && strings.TrimSpace(string(file)) == d.file() {
			return loop
		}
	}
	return ""
}

// guard starts a process that unmounts everything when this process dies. A thread of
// this process may then wait for the disk, so that /dev/fuse stays open and nothing ends
// that wait: a sync of any process on the machine would hang. Unmounting by force ends it.
func (d *Disk) guard() {
	d.t.Helper()
	// A process with such a thread has SIGKILL pending, or is a zombie.
	const script = `
		dying() {
			while read -r name value; do
				case "$name $value" in
					"State: "[ZX]* | "SigPnd: "*[13579bdf]??) return 0 ;;
				esac
			done </proc/"$1"/status || return 0
			return 1
		}
		until dying "$3"; do sleep 1; done
		umount -c -f "$2"
		umount -c -l "$1"
		umount -c -l "$2"`
	shell := exec.Command("sh", "-c", script, "faultdisk", d.Dir, d.fuse, strconv.Itoa(os.Getpid()))
	shell.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := shell.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { // everything is unmounted
		_ = unix.Kill(-shell.Process.Pid, unix.SIGKILL)
		_ = shell.Wait()
	})
}
