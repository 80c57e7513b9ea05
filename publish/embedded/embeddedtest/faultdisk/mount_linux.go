package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

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
	for started := time.Now(); ; time.Sleep(50 * time.Millisecond) {
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
		if time.Since(started) > 3*time.Minute {
			return fmt.Errorf("unmounting %s: %w; it is in use by %q", d.Dir, err, d.users())
		}
		runtime.GC() // closes files that a broker of this process has left open
		if time.Since(started) > 10*time.Second {
			if err := d.release(); err != nil {
				return err
			}
		}
	}
}

// release replaces the files that this process has open in the file system by /dev/null: a
// broker that was stopped after a failed write may have left one open for good.
func (d *Disk) release() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		fd, _ := strconv.Atoi(filepath.Base(link))
		if target, _ := os.Readlink(link); !strings.HasPrefix(target, d.Dir+"/") {
			continue
		}
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("replacing an open file of %s: %w", d.Dir, err)
		}
	}
	return nil
}

// users returns the entries of /proc that use the file system or its loop device: open files,
// working directories, mapped files, and other mount namespaces.
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
